// What the page of a database does with script: an editor in the place of the textarea, rows as they come, a way to
// cancel. Without script the form runs SQL, and the page is made with what came of it.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const at = byId("database").dataset.at;
  const [form, area, results, said, clock] = ["ask", "sql", "results", "said", "clock"].map(byId);

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const grouped = new Intl.NumberFormat("en");
  const rowsOf = (count) => (count === 1 ? "1 row" : `${grouped.format(count)} rows`);
  const tookOf = (ms) => (ms < 1000 ? `${ms} ms` : `${grouped.format(Math.floor(ms / 1000))}.${Math.floor((ms % 1000) / 100)} s`);
  const say = (words) => { said.textContent = words; };

  // ---- The editor. Where sheets of script's making are not known, the textarea stays.
  const plain = () => ({
    text: () => area.value,
    chosen: () => (area.selectionStart < area.selectionEnd
      ? { from: area.selectionStart, text: area.value.slice(area.selectionStart, area.selectionEnd) } : null),
    focus: () => area.focus(),
    replace: (text) => { area.value = text; },
    insert: (text) => area.setRangeText(text, area.selectionStart, area.selectionEnd, "end"),
    complete: () => {},
    mark: (offset) => {
      if (offset === null) return null;
      const before = area.value.slice(0, offset).split("\n");
      return { line: before.length, column: before.pop().length + 1 };
    },
    go: (offset) => { area.focus(); area.setSelectionRange(offset, offset); },
  });
  let changed = () => {};
  const write = () => {
    if (!window.steadEditor || !("adoptedStyleSheets" in document)) return plain();
    const host = byId("editor");
    host.hidden = false;
    area.hidden = true;
    byId("sql-label").removeAttribute("for");
    return window.steadEditor.open(host, {
      text: area.value,
      label: "SQL. Control Enter runs it. Escape, then Tab, leaves the editor.",
      nothing: "select …",
      on: { run: () => start(), change: () => changed() },
    });
  };
  const editor = write();
  const runButton = byId("run");
  changed = () => { runButton.textContent = editor.chosen() ? "Run the selection" : "Run"; };
  for (const element of document.querySelectorAll("[data-script]")) element.hidden = false;
  // A form that is sent, or gone back to, has the text.
  const keep = () => { if (area.hidden) area.value = editor.text(); };
  addEventListener("pagehide", keep);
  addEventListener("pageshow", () => { if (area.hidden && area.value && !editor.text()) editor.replace(area.value); });

  // ---- A value that is too long for its cell.
  const NUMBERS = new Set(["int2", "int4", "int8", "numeric", "float4", "float8", "oid", "money"]);
  const [LONG, LINES] = [300, 6];
  const wholes = new WeakMap();
  const dialog = byId("whole");
  const cut = (value) => {
    let end = Math.min(value.length, LONG);
    let line = -1;
    for (let n = 0; n < LINES; n += 1) {
      line = value.indexOf("\n", line + 1);
      if (line < 0) break;
      if (n === LINES - 1) end = Math.min(end, line);
    }
    // No character is cut in two.
    if (end < value.length && /[\ud800-\udbff]/.test(value[end - 1])) end -= 1;
    return end;
  };
  const cell = (value, column) => {
    const td = document.createElement("td");
    td.dir = "auto";
    if (column && NUMBERS.has(column.type)) td.className = "num";
    if (value === null) {
      td.append(make("span", { className: "null", textContent: "NULL" }));
      return td;
    }
    const end = value.length > LONG || value.includes("\n") ? cut(value) : value.length;
    if (end === value.length) {
      td.textContent = value;
      return td;
    }
    const more = make("button", { type: "button", className: "more", textContent: "whole" });
    more.setAttribute("aria-label", `Show the whole ${column.name}, ${grouped.format(value.length)} characters`);
    wholes.set(more, { value, name: column.name });
    td.append(`${value.slice(0, end)}…`, more);
    return td;
  };
  results.addEventListener("click", (event) => {
    const whole = wholes.get(event.target);
    if (!whole) return;
    byId("whole-name").textContent = whole.name;
    byId("whole-size").textContent = `${grouped.format(whole.value.length)} characters`;
    byId("whole-value").textContent = whole.value;
    byId("whole-copy").hidden = !navigator.clipboard;
    byId("whole-copy").onclick = () => navigator.clipboard.writeText(whole.value);
    dialog.showModal();
  });
  byId("whole-close").onclick = () => dialog.close();
  dialog.addEventListener("close", () => { byId("whole-value").textContent = ""; });

  // ---- What comes of SQL.
  const message = (event, from, sql) => {
    const bad = event.type === "error";
    const note = make("div", { className: `note ${bad ? "bad" : "busy"}` });
    if (bad) note.setAttribute("role", "alert");
    const code = event.code && event.code !== "00000" ? ` ${event.code}` : "";
    const words = (text, className = "words") => make("p", { className, textContent: text, dir: "auto" });
    const first = make("p", {}, make("strong", { textContent: event.severity + code }), " ");
    first.append(make("span", { className: "words", textContent: event.message, dir: "auto" }));
    note.append(first);
    if (event.detail) note.append(words(event.detail));
    if (event.hint) note.append(words(`Hint: ${event.hint}`));
    if (event.internal_query) note.append(make("pre", { textContent: event.internal_query }));
    if (event.context) note.append(words(event.context, "words small"));
    if (event.position) {
      // PostgreSQL counts characters, script counts halves of some.
      const offset = from + [...sql].slice(0, event.position - 1).join("").length;
      const place = bad ? editor.mark(offset) : null;
      if (place) {
        const go = make("button", { type: "button", className: "link", textContent: `Line ${place.line}, column ${place.column}` });
        go.onclick = () => editor.go(offset);
        note.append(make("p", {}, go));
      }
    }
    return note;
  };

  // One table; rows are put into it some at a time, for a table is laid out anew each time.
  const table = (columns, number) => {
    const heading = make("h2", { textContent: "Rows" });
    const head = make("tr");
    for (const column of columns) {
      const th = make("th", { scope: "col" }, make("bdi", { textContent: column.name }));
      if (NUMBERS.has(column.type)) th.className = "num";
      if (column.type) th.append(" ", make("span", { className: "kind", textContent: column.type }));
      head.append(th);
    }
    const body = make("tbody");
    const frame = make("div", { className: "rows", tabIndex: 0 }, make("table", { className: "data" }, make("thead", {}, head), body));
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", `Rows of result ${number}`);
    const section = make("section", { className: "card table result" }, make("div", { className: "of" }, heading), frame);
    results.append(section);
    let waiting = [];
    let shown = 0;
    const flush = () => {
      if (!waiting.length) return;
      const rows = document.createDocumentFragment();
      for (const row of waiting) {
        const tr = document.createElement("tr");
        if (Array.isArray(row)) row.forEach((value, n) => tr.append(cell(value, columns[n])));
        else tr.append(make("td", { className: "null", colSpan: Math.max(columns.length, 1), textContent: `a row of ${grouped.format(row.bytes)} bytes, too long to be shown` }));
        rows.append(tr);
      }
      body.append(rows);
      shown += waiting.length;
      waiting = [];
    };
    return {
      row(row) { waiting.push(row); if (waiting.length >= Math.max(500, shown)) flush(); },
      flush,
      end(count) {
        flush();
        heading.textContent = rowsOf(count);
        if (count > shown) heading.after(make("span", { className: "soft small", textContent: `the first ${grouped.format(shown)} are shown; an export has more` }));
        if (!count && !columns.length) frame.remove();
      },
    };
  };

  const OUTCOMES = { failed: "Failed", cancelled: "Cancelled", cut_off: "Ended by a limit" };
  const summed = (summary) => {
    const took = tookOf(summary.duration_ms);
    let line = summary.outcome === "done" ? `${rowsOf(summary.rows)} in ${took}` : `${OUTCOMES[summary.outcome] || summary.outcome} after ${took}`;
    if (summary.notices_left_out) line += `; ${grouped.format(summary.notices_left_out)} notices left out`;
    return summary.message ? `${line}: ${summary.message}` : line;
  };

  // ---- Running.
  let running = null;
  const refuse = (words) => {
    const note = make("div", { className: "note bad" }, make("p", { textContent: words }));
    note.setAttribute("role", "alert");
    results.append(note);
    say("It was not run");
  };

  async function start() {
    if (running) return;
    const part = editor.chosen();
    const sql = part ? part.text : editor.text();
    editor.mark(null);
    if (!sql.trim()) {
      say("There is nothing to run: write a statement");
      return;
    }
    results.replaceChildren();
    const mine = { controller: new AbortController(), id: null, part, sql, results: 0, table: null, changed: false };
    running = mine;
    const began = performance.now();
    const tick = () => { clock.textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`; };
    // What has come is shown while more is awaited.
    const timer = setInterval(() => { tick(); if (mine.table) mine.table.flush(); }, 200);
    runButton.disabled = true;
    byId("cancel").hidden = false;
    results.setAttribute("aria-busy", "true");
    say("Running");
    tick();
    try {
      await run(mine);
    } catch (error) {
      if (mine.table) mine.table.flush();
      if (mine.controller.signal.aborted) say("Cancelled");
      else refuse(mine.id ? "The connection broke off. What was not committed is undone." : `Stead does not answer: ${error.message}`);
    }
    clearInterval(timer);
    clock.textContent = "";
    running = null;
    runButton.disabled = false;
    byId("cancel").hidden = true;
    results.removeAttribute("aria-busy");
    htmx.trigger("#history", "ran");
    if (mine.changed && document.querySelector("#schema .tree")) htmx.trigger("#schema", "stale");
  }

  async function run(mine) {
    const box = byId("read_only");
    const asked = { sql: mine.sql, read_only: !!box && box.checked, rows: Number(byId("rows").value) };
    // Who is not signed in any more is told so, and keeps the text.
    const headers = { "content-type": "application/json", "hx-request": "true" };
    const answer = await fetch(`${at}/query`, { method: "POST", headers, body: JSON.stringify(asked), signal: mine.controller.signal });
    if (answer.status === 401) return refuse("Your session has ended. Sign in in another tab, then run it again here.");
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({}));
      const fields = (problem.errors || []).map((error) => error.detail);
      return refuse([problem.detail || `Stead answers ${answer.status}; retry in a few seconds`, ...fields].join("; "));
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let worked = performance.now();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line) take(JSON.parse(line), mine);
        if (performance.now() - worked > 50) {
          // The browser draws, and hears a key that cancels.
          await new Promise((resolve) => { setTimeout(resolve); });
          worked = performance.now();
        }
      }
    }
    if (!mine.ended) throw new Error("it broke off");
  }

  const take = (event, mine) => {
    if (Array.isArray(event)) return mine.table.row(event);
    switch (event.type) {
      case "started": mine.id = event.id; break;
      case "columns": mine.results += 1; mine.table = table(event.columns, mine.results); break;
      case "row_too_long": mine.table.row(event); break;
      case "notice":
      case "error":
        if (mine.table) mine.table.flush();
        results.append(message(event, mine.part ? mine.part.from : 0, mine.sql));
        break;
      case "done":
        if (mine.table) mine.table.end(event.rows);
        else if (event.command) results.append(make("p", { className: "did mono", textContent: event.command }));
        mine.changed ||= /^(CREATE|ALTER|DROP|COMMENT|ANALYZE|SELECT INTO)/.test(event.command);
        mine.table = null;
        break;
      case "summary":
        if (mine.table) mine.table.flush();
        mine.ended = true;
        say(summed(event));
        break;
      default:
    }
  };

  const cancel = async () => {
    const mine = running;
    if (!mine) return;
    say("Cancelling");
    if (!mine.id) return mine.controller.abort();
    const answer = await fetch(`${at}/queries/${mine.id}/cancel`, { method: "POST", headers: { "hx-request": "true" } }).catch(() => null);
    // To hang up cancels as well.
    if (!(answer && (answer.ok || answer.status === 404))) mine.controller.abort();
  };

  form.addEventListener("submit", (event) => {
    keep();
    if (event.submitter && event.submitter.hasAttribute("formaction")) return;
    event.preventDefault();
    start();
  });
  byId("cancel").onclick = cancel;
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.defaultPrevented || dialog.open) return;
    if (event.key === ".") { event.preventDefault(); cancel(); }
    if (event.key === "Enter") { event.preventDefault(); start(); }
  });

  // ---- Beside it: names go into the editor, and so do texts of the past.
  const known = {};
  const learn = () => {
    for (const button of document.querySelectorAll("[data-insert]")) button.disabled = false;
    for (const relation of document.querySelectorAll("[data-relation]")) {
      const columns = [...relation.querySelectorAll("[data-column]")].map((column) => column.dataset.column);
      (known[relation.dataset.schema] ||= {})[relation.dataset.relation] = columns;
    }
    editor.complete(known);
  };
  learn();
  document.addEventListener("htmx:afterSwap", (event) => { if (event.detail.target.id === "schema") learn(); });
  // A part that cannot be shown says why.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.closest("[data-part]") && event.detail.xhr.responseText) event.detail.shouldSwap = true;
  });
  document.querySelector(".beside").addEventListener("click", async (event) => {
    const name = event.target.closest("[data-insert]");
    if (name) {
      editor.insert(name.dataset.insert);
      say(`${name.dataset.insert} stands in the editor`);
      return;
    }
    const past = event.target.closest("a[data-query]");
    if (!past || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const answer = await fetch(`${at}/queries/${past.dataset.query}`, { headers: { "hx-request": "true" } }).catch(() => null);
    if (!answer || !answer.ok) {
      say("This query cannot be fetched; load the page again");
      return;
    }
    editor.replace(await answer.text());
    editor.focus();
  });
})();

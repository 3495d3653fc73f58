// What pages of the console do with script: keep their live parts fresh. Every page works without it.
//
// A browser has one stream of events, however many tabs are open: the tab that holds a lock has it, and tells the others.
(() => {
  "use strict";
  const base = document.documentElement.dataset.base || "";
  const channel = new BroadcastChannel("stead" + base);

  // An element with data-live="tenant/stead" (or "*") is fetched anew when something happened there.
  const due = new Set();
  let timer = 0;
  let refreshed = 0;
  const changed = (names) => {
    for (const element of document.querySelectorAll("[data-live]")) {
      const mine = element.dataset.live;
      const hit = (name) => mine === "*" || name === "*" || name === mine || name.startsWith(mine + "/");
      if (names.some(hit)) due.add(element);
    }
    // At once, but not all the time: in a fleet of thousands something always happens.
    const wait = document.hidden ? 10000 : Math.max(150, refreshed + 2000 - Date.now());
    if (due.size && !timer) timer = setTimeout(refresh, wait);
  };
  const refresh = () => {
    timer = 0;
    refreshed = Date.now();
    for (const element of due) {
      // Nobody's typing is thrown away.
      const typing = element.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
      if (!typing && element.isConnected) htmx.trigger(element, "live");
    }
    due.clear();
  };

  // What is shown may be old once Stead does not answer: one place says so, and takes it back.
  const away = (words) => {
    const place = document.getElementById("away");
    if (place.textContent === words) return;
    const note = document.createElement("p");
    note.className = "note bad";
    note.textContent = words;
    place.replaceChildren(...(words ? [note] : []));
  };
  const SILENT = "Stead does not answer. What is shown here may be old; it is asked again all the time.";
  const told = (news) => { away(news.lost ? SILENT : ""); changed(news.names || []); };
  channel.onmessage = (message) => told(message.data);

  // What happened between the making of a page and its listening, nobody told it: it is looked at once more.
  let looked = false;
  const look = () => { looked = true; changed(["*"]); };
  if (document.documentElement.dataset.events) setTimeout(look, 1000);

  if (document.documentElement.dataset.events && navigator.locks) {
    navigator.locks.request("stead-events" + base, () => new Promise(() => {
      const tell = (news) => { channel.postMessage(news); told(news); };
      let lost = 0;
      const open = () => {
        const source = new EventSource(base + "/events");
        source.addEventListener("changed", (event) => tell({ names: event.data.split("\n") }));
        source.addEventListener("error", () => {
          lost ||= setTimeout(() => tell({ lost: true }), 3000);
          // An answer that is no stream ends it for good: a proxy's, while Stead is away, or a session's that has ended.
          if (source.readyState === EventSource.CLOSED) setTimeout(open, 5000);
        });
        source.addEventListener("open", () => {
          // What happened while it was lost, nobody told us.
          if (lost) { clearTimeout(lost); lost = 0; tell({ names: ["*"] }); } else if (looked) look();
        });
      };
      open();
    }));
  }
  document.addEventListener("htmx:afterRequest", (event) => {
    const { successful, xhr, elt } = event.detail;
    if (successful) return away("");
    // Gone to sign in, and back to here afterwards.
    if (xhr.status === 401 || elt.closest("[data-part]")) return;
    const refused = xhr.status >= 400 && xhr.status < 500;
    away(refused ? "This is not here any more, or not yours to see any more. Load the page again." : SILENT);
    if (!refused && elt.dataset.live) setTimeout(() => changed([elt.dataset.live]), 3000);
  });

  // What was sent is under way: it is seen, and not sent a second time.
  const busy = (form, is) => (is ? form.setAttribute("aria-busy", "true") : form.removeAttribute("aria-busy"));
  document.addEventListener("submit", (event) => {
    const stays = event.submitter && event.submitter.dataset.stays !== undefined;
    if (event.defaultPrevented || stays) return;
    if (event.target.getAttribute("aria-busy")) event.preventDefault();
    busy(event.target, true);
  });
  // Whoever goes back to a page that was kept finds it at rest.
  window.addEventListener("pageshow", () => { for (const form of document.forms) busy(form, false); });
  for (const [when, is] of [["htmx:beforeRequest", true], ["htmx:afterRequest", false]]) {
    document.addEventListener(when, (event) => {
      const part = event.detail.target.closest("[data-part]");
      if (part) busy(part, is);
    });
  }

  // Moments are shown in the reader's own time zone, and lines under the reader's own days.
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const date = new Intl.DateTimeFormat(undefined, { dateStyle: "long" });
  const times = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.valueOf())) continue;
      time.textContent = (time.closest(".line") ? clock : local).format(at);
      time.title = time.dateTime;
    }
  };
  const days = (root) => {
    const sections = [...root.querySelectorAll(".day:not([data-local])")];
    let last = {};
    for (const section of sections) {
      for (const line of [...section.querySelectorAll(".line")]) {
        const day = date.format(new Date(line.querySelector("time").dateTime));
        if (last.day !== day) {
          const [made, heading] = [section.cloneNode(false), document.createElement("h2")];
          last = { day, list: section.querySelector("ul").cloneNode(false) };
          heading.textContent = day;
          made.dataset.local = "1";
          made.setAttribute("aria-label", day);
          made.append(heading, last.list);
          sections[0].before(made);
        }
        last.list.append(line);
      }
    }
    for (const section of sections) section.remove();
  };

  const copies = (root) => {
    for (const button of root.querySelectorAll("button[data-copy]")) {
      button.hidden = !navigator.clipboard;
      button.onclick = async () => {
        await navigator.clipboard.writeText(button.dataset.copy);
        const was = button.textContent;
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = was; }, 1500);
      };
    }
  };

  const ready = (root) => { times(root); days(root); copies(root); };
  document.addEventListener("DOMContentLoaded", () => ready(document));
  document.addEventListener("htmx:load", (event) => ready(event.detail.elt.parentElement || document));
})();

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
  channel.onmessage = (message) => changed(message.data);

  if (document.documentElement.dataset.events && navigator.locks) {
    navigator.locks.request("stead-events" + base, () => new Promise(() => {
      const source = new EventSource(base + "/events");
      let lost = false;
      const tell = (names) => { channel.postMessage(names); changed(names); };
      source.addEventListener("changed", (event) => tell(event.data.split("\n")));
      source.addEventListener("error", () => { lost = true; });
      // What happened while it was lost, nobody told us.
      source.addEventListener("open", () => { if (lost) tell(["*"]); lost = false; });
    }));
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

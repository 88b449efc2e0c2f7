// Times in the viewer's zone, the stream of the open page, keyboard, colours. No framework but htmx.
(() => {
  "use strict";
  const root = document.body.dataset.root.replace(/\/$/, "");
  const find = (selector, inside = document) => inside.querySelector(selector);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // --- times: <time datetime="…">; data-ago keeps its age as text and shows the moment as title
  const moment = new Intl.DateTimeFormat(undefined, {
    year: "numeric", month: "2-digit", day: "2-digit",
    hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
  });
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  function age(seconds) {
    const parts = [];
    let left = Math.round(Math.abs(seconds));
    for (const [unit, size] of units) {
      const count = Math.floor(left / size);
      left -= count * size;
      if (count) parts.push(`${count} ${unit}`);
      else if (parts.length) break;
      if (parts.length === 2) break;
    }
    const text = parts.join(" ") || "0 s";
    return seconds >= 0 ? `${text} ago` : `in ${text}`;
  }
  function times(inside = document) {
    for (const element of all("time[datetime]", inside)) {
      const at = new Date(element.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      if ("ago" in element.dataset) {
        const text = age((Date.now() - at.getTime()) / 1000);
        if (element.textContent !== text) element.textContent = text;
        element.title = moment.format(at);
      } else if (element.textContent !== moment.format(at)) {
        element.textContent = moment.format(at);
        element.title = `${at.toISOString()} (UTC)`;
      }
    }
  }

  // --- the stream of this page: open while the tab is seen, never while somebody fills in a form
  let stream = null;
  let streamed = "";
  let late = null; // what came while somebody selected text, typed or had a dialog open there
  const state = find("#live-state");
  function say(text, kind) {
    state.hidden = false;
    state.dataset.kind = kind;
    if (state.textContent !== text) state.textContent = text;
  }
  function close() {
    if (stream) stream.close();
    stream = null;
  }
  function open() {
    close();
    if (!find("#live[data-live]") || document.hidden) return;
    const address = new URL(location.href);
    address.hash = "";
    address.searchParams.set("live", "1");
    streamed = location.href;
    late = null;
    stream = new EventSource(address);
    stream.addEventListener("page", (event) => replace(event.data));
    // The server ends the stream, and the browser opens another one a little later.
    stream.addEventListener("away", () => {
      late = null;
      say("no database", "bad");
    });
    stream.addEventListener("end", () => {
      late = null;
      close();
      say("stopped", "bad");
    });
    stream.addEventListener("error", () => {
      if (stream && stream.readyState === EventSource.CLOSED) say("stopped", "bad");
      else if (navigator.onLine === false) say("offline", "bad");
    });
  }
  function busy(live) {
    const focused = document.activeElement;
    const typing = focused && live.contains(focused) && /^(INPUT|TEXTAREA|SELECT)$/.test(focused.tagName);
    const selecting = String(getSelection() || "") && live.contains(getSelection().anchorNode);
    return typing || selecting || find("dialog[open]", live);
  }
  async function replace(html) {
    const live = find("#live");
    if (!live) return;
    late = busy(live) ? html : null;
    if (late !== null) {
      say("paused", "bad"); // the server sends it once: it is shown when nobody is busy any more
      return;
    }
    say("live", "good");
    // Times are written before anything is shown, so that none of them flickers.
    const parsed = new DOMParser().parseFromString(html, "text/html");
    times(parsed);
    await htmx.swap({ text: parsed.body.innerHTML, target: live, sourceElement: live, swap: "innerMorph", transition: false });
  }
  function drawn() {
    times();
    document.dispatchEvent(new CustomEvent("aiodurable:drawn"));
    if (stream && location.href !== streamed) open();
  }
  document.addEventListener("visibilitychange", open);
  document.addEventListener("htmx:after:swap", drawn);
  addEventListener("pageshow", open);

  // Back to an address that a filter replaced: its page is read again.
  let shown = location.pathname + location.search;
  document.addEventListener("htmx:after:history:push", () => {
    shown = location.pathname + location.search;
  });
  addEventListener("popstate", () => {
    if (location.pathname + location.search !== shown) location.reload();
  });
  addEventListener("pagehide", close);

  // --- colours
  for (const button of all("[data-theme-toggle]")) {
    button.addEventListener("click", () => {
      const element = document.documentElement;
      const dark = element.dataset.theme
        ? element.dataset.theme === "dark"
        : matchMedia("(prefers-color-scheme: dark)").matches;
      element.dataset.theme = dark ? "light" : "dark";
      try {
        localStorage.setItem("aiodurable-theme", element.dataset.theme);
      } catch {
        // Kept for this page only.
      }
      document.dispatchEvent(new CustomEvent("aiodurable:theme"));
    });
  }

  // --- dialogs: a button with data-dialog="id" opens it; Escape and its own buttons close it
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-dialog]");
    const dialog = opener && document.getElementById(opener.dataset.dialog);
    if (dialog) {
      event.preventDefault();
      dialog.showModal();
    }
    const closer = event.target.closest("[data-close]");
    if (closer) closer.closest("dialog")?.close();
    if (event.target.closest("[data-help]")) find("#help").showModal();
    const copier = event.target.closest("[data-copy]");
    if (copier) copy(copier);
  });
  async function copy(button) {
    try {
      await navigator.clipboard.writeText(decodeURIComponent(button.dataset.copy));
      button.dataset.copied = "";
      setTimeout(() => delete button.dataset.copied, 1500);
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling || button);
    }
  }

  // --- keyboard: g and a letter opens a page, / searches, j and k walk the rows, ? helps
  let going = -Infinity; // when g was pressed: a busy page may handle both keys late
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || find("dialog[open]")) return;
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.timeStamp - going < 1500) {
      going = -Infinity;
      const link = all("[data-key]").find((item) => item.dataset.key === event.key);
      if (link) {
        event.preventDefault();
        location.assign(link.href);
      }
      return;
    }
    if (event.key === "g") going = event.timeStamp;
    else if (event.key === "/") focus(event, find("[data-complete]") || find("[data-search]"));
    else if (event.key === "?") find("#help").showModal();
    else if (event.key === "j" || event.key === "k") walk(event, event.key === "j" ? 1 : -1);
  });
  // What was searched for is shown: j and k walk it, where they would go on with the search.
  document.addEventListener("submit", (event) => find("[data-complete]", event.target)?.blur());
  function focus(event, element) {
    if (!element) return;
    event.preventDefault();
    element.focus();
    if (element.select) element.select();
  }
  function walk(event, step) {
    const links = all("#live .rows tbody tr").map((row) => find("a[href]", row)).filter(Boolean);
    if (!links.length) return;
    const at = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
    const next = at < 0 ? (step > 0 ? 0 : links.length - 1) : at + step;
    focus(event, links[Math.min(Math.max(next, 0), links.length - 1)]);
  }

  // --- completion: the list offers the last word of a search, not the whole of it
  for (const input of all("[data-complete]")) {
    const options = all("option", input.list).map((option) => [option.value, option.textContent]);
    input.addEventListener("input", () => {
      const before = input.value.slice(0, input.value.lastIndexOf(" ") + 1);
      const last = input.value.slice(before.length).toLowerCase();
      input.list.replaceChildren(
        ...options
          .filter(([value]) => value.startsWith(last))
          .slice(0, 40)
          .map(([value, explained]) => {
            const option = document.createElement("option");
            option.value = before + value;
            option.textContent = explained;
            return option;
          }),
      );
    });
  }

  setInterval(() => {
    if (document.hidden) return;
    times();
    if (late !== null) replace(late);
  }, 1000);
  // On a narrow screen the pages are a row that scrolls: the open one may be beyond its edge.
  find(".side [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  window.aiodurable = { root, find, all, age, times };
  drawn();
})();

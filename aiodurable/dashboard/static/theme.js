// Sets the colours that a person chose before the page is drawn. Without a choice the system's hold.
(() => {
  "use strict";
  let chosen = null;
  try {
    chosen = localStorage.getItem("aiodurable-theme");
  } catch {
    // No storage in this browser: the system's colours.
  }
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.theme = chosen;
  }
})();

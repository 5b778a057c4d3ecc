// Runs before the first paint: the chosen theme, and that there is a script.
document.documentElement.classList.add("js");
try {
  const theme = localStorage.getItem("clipdex-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is switched off: the system's theme it is.
}

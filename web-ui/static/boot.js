// Applies the remembered theme before anything is drawn, then starts the dashboard.
// src/theme.rs writes what is read here.

try {
  const theme = localStorage.getItem("tepui-theme");
  if (theme === "light" || theme === "dark") {
    document.documentElement.setAttribute("data-theme", theme);
  }
} catch {
  // Storage is closed to us: the system's theme it is.
}

try {
  const { default: init } = await import("/tepui-web.js");
  await init({ module_or_path: "/tepui-web_bg.wasm" });
} catch (error) {
  console.error(error);
  const boot = document.getElementById("boot");
  if (boot) {
    const text = document.createElement("p");
    text.textContent = "The dashboard could not be loaded: " + error;
    const retry = document.createElement("button");
    retry.type = "button";
    retry.className = "button";
    retry.textContent = "Try again";
    retry.addEventListener("click", () => location.reload());
    boot.replaceChildren(text, retry);
  }
}

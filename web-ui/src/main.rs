//! The dashboard: a page that runs in the browser and talks to the master that
//! served it.
//!
//! `app` routes; `pages` are what one can see, `components` what they share;
//! `api` makes every request, and `live` and `feed` keep what is shown up to
//! date. What needs no browser is in the library, and tested natively.

#[cfg(target_arch = "wasm32")]
mod api;
#[cfg(target_arch = "wasm32")]
mod app;
#[cfg(target_arch = "wasm32")]
mod components;
#[cfg(target_arch = "wasm32")]
mod feed;
#[cfg(target_arch = "wasm32")]
mod live;
#[cfg(target_arch = "wasm32")]
mod pages;
#[cfg(target_arch = "wasm32")]
mod theme;
#[cfg(target_arch = "wasm32")]
mod upload;

#[cfg(target_arch = "wasm32")]
fn main() {
    console_error_panic_hook::set_once();
    app::start();
}

#[cfg(not(target_arch = "wasm32"))]
fn main() {
    eprintln!("The dashboard runs in a browser; `cargo xtask web` builds it.");
    std::process::exit(2);
}

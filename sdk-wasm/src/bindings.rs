//! What wit-bindgen makes of the world `framework`.
//!
//! Authors never see this module: [`crate::guest`] turns its words into the
//! SDK's own, and [`crate::export!`] calls the macro that it generates.
#![allow(missing_docs, clippy::all)]

// `export!` expands in an author's crate, which does not know wit-bindgen.
pub use wit_bindgen;

wit_bindgen::generate!({
    path: "wit/0.1",
    world: "framework",
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "tepui_sdk::bindings",
    runtime_path: "::tepui_sdk::bindings::wit_bindgen::rt",
});

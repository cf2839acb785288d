//! Bytes that are given back to the heap, so that an allocator's size can be told.
//!
//! Nothing is counted while a cycle is timed: the count would be a part of the time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The system's allocator, counting what comes back while it is asked to.
pub struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static FREED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are given back while a value is dropped.
pub fn freed_by_drop<T>(value: T) -> usize {
    FREED.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::Relaxed);
    drop(value);
    COUNTS.store(false, Ordering::Relaxed);
    FREED.load(Ordering::Relaxed)
}

// SAFETY: every call is handed on to the system's allocator as it is; only a counter is kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if COUNTS.load(Ordering::Relaxed) {
            FREED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

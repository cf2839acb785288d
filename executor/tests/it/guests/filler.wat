;; Fills the disk: 4,096 bytes after the other into `file` of the first folder, by the function that stands for
;; `$way`. Succeeds when that ends with `insufficient-space` before a mebibyte.
(module
    (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $folders (param i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at"
        (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.write"
        (func $write (param i32 i32 i32 i64 i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.append-via-stream"
        (func $append (param i32 i32)))
    (import "wasi:filesystem/types@0.2.0" "filesystem-error-code" (func $code (param i32 i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
        (func $say (param i32 i32 i32 i32)))
    (memory (export "memory") 2)
    (data (i32.const 256) "file")
    (global $free (mut i32) (i32.const 65536))
    ;; Nothing is ever given back.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (global.get $free))
        (global.set $free
            (i32.add (global.get $free) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))
        (local.get $at))
    (func $file (result i32)
        (call $folders (i32.const 0))
        ;; The file may be there or not, and is written to.
        (call $open (i32.load (i32.load (i32.const 0)))
            (i32.const 0) (i32.const 256) (i32.const 4) (i32.const 1) (i32.const 2) (i32.const 16))
        (if (i32.load8_u (i32.const 16)) (then (unreachable)))
        (i32.load (i32.const 20)))
    (func $by-write (result i32)
        (local $file i32) (local $at i64)
        (local.set $file (call $file))
        (loop $again
            (call $write (local.get $file)
                (i32.const 4096) (i32.const 4096) (local.get $at) (i32.const 32))
            (local.set $at (i64.add (local.get $at) (i64.const 4096)))
            (br_if $again (i32.and
                (i32.eqz (i32.load8_u (i32.const 32)))
                (i64.lt_u (local.get $at) (i64.const 1048576)))))
        (if (i32.eqz (i32.load8_u (i32.const 32))) (then (return (i32.const 255))))
        (i32.load8_u (i32.const 40)))
    (func $by-stream (result i32)
        (local $stream i32) (local $at i64)
        (call $append (call $file) (i32.const 32))
        (if (i32.load8_u (i32.const 32)) (then (unreachable)))
        (local.set $stream (i32.load (i32.const 36)))
        (loop $again
            (call $say (local.get $stream) (i32.const 4096) (i32.const 4096) (i32.const 48))
            (local.set $at (i64.add (local.get $at) (i64.const 4096)))
            (br_if $again (i32.and
                (i32.eqz (i32.load8_u (i32.const 48)))
                (i64.lt_u (local.get $at) (i64.const 1048576)))))
        (if (i32.eqz (i32.load8_u (i32.const 48))) (then (return (i32.const 255))))
        ;; The last operation has failed, and this is why.
        (if (i32.load8_u (i32.const 52)) (then (unreachable)))
        (call $code (i32.load (i32.const 56)) (i32.const 64))
        (i32.load8_u (i32.const 65)))
    (func (export "wasi:cli/run@0.2.0#run") (result i32)
        (i32.ne (call $way) (i32.const 23))))

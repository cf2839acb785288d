;; Each request writes 16 KiB after the other into a file of its own until it is refused, and gives no answer.
(module
    (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $folders (param i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at"
        (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.write"
        (func $write (param i32 i32 i32 i64 i32)))
    (memory (export "memory") 2)
    ;; The last letter is another one in each of them.
    (data (i32.const 256) "file-a")
    (global $free (mut i32) (i32.const 65536))
    ;; Nothing is ever given back.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (global.get $free))
        (global.set $free
            (i32.add (global.get $free) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))
        (local.get $at))
    ;; Makes the first of these files that is not there (`exist`); ends where there may be none.
    (func $file (result i32)
        (call $folders (i32.const 0))
        (loop $next
            (call $open (i32.load (i32.load (i32.const 0)))
                (i32.const 0) (i32.const 256) (i32.const 6) (i32.const 5) (i32.const 2) (i32.const 16))
            (if (i32.eqz (i32.load8_u (i32.const 16))) (then (return (i32.load (i32.const 20)))))
            (if (i32.ne (i32.load8_u (i32.const 20)) (i32.const 7)) (then (return (i32.const -1))))
            (i32.store8 (i32.const 261) (i32.add (i32.load8_u (i32.const 261)) (i32.const 1)))
            (br $next))
        (unreachable))
    (func (export "wasi:http/incoming-handler@0.2.0#handle") (param i32 i32)
        (local $file i32) (local $at i64)
        (local.set $file (call $file))
        (if (i32.eq (local.get $file) (i32.const -1)) (then (return)))
        (loop $again
            (call $write (local.get $file)
                (i32.const 4096) (i32.const 16384) (local.get $at) (i32.const 32))
            (local.set $at (i64.add (local.get $at) (i64.const 16384)))
            (br_if $again (i32.and
                (i32.eqz (i32.load8_u (i32.const 32)))
                (i64.lt_u (local.get $at) (i64.const 1048576)))))))

;; Makes `file` in its first volume, which it can neither link nor rename into the sandbox, nor that of the
;; sandbox into the volume; within the volume it becomes `moved`. Traps where that is otherwise.
(module
    (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $folders (param i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at"
        (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.link-at"
        (func $link-at (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "wasi:filesystem/types@0.2.0" "[method]descriptor.rename-at"
        (func $rename-at (param i32 i32 i32 i32 i32 i32 i32)))
    (memory (export "memory") 2)
    (data (i32.const 256) "file")
    (data (i32.const 272) "moved")
    (global $free (mut i32) (i32.const 65536))
    ;; Nothing is ever given back.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (global.get $free))
        (global.set $free
            (i32.add (global.get $free) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))
        (local.get $at))
    ;; The folder in that place: the sandbox is twice there, then the volume.
    (func $folder (param $place i32) (result i32)
        (i32.load (i32.add (i32.load (i32.const 0)) (i32.mul (local.get $place) (i32.const 12)))))
    ;; 0, or what the error is and one.
    (func $said (result i32)
        (if (i32.load8_u (i32.const 32))
            (then (return (i32.add (i32.load8_u (i32.const 33)) (i32.const 1)))))
        (i32.const 0))
    (func $link (param $from i32) (param $to i32) (result i32)
        (call $link-at (call $folder (local.get $from)) (i32.const 0) (i32.const 256) (i32.const 4)
            (call $folder (local.get $to)) (i32.const 272) (i32.const 5) (i32.const 32))
        (call $said))
    (func $rename (param $from i32) (param $to i32) (result i32)
        (call $rename-at (call $folder (local.get $from)) (i32.const 256) (i32.const 4)
            (call $folder (local.get $to)) (i32.const 272) (i32.const 5) (i32.const 32))
        (call $said))
    (func $cross (param $found i32)
        (if (i32.ne (local.get $found) (i32.const 37)) (then (unreachable))))
    (func (export "wasi:cli/run@0.2.0#run") (result i32)
        (call $folders (i32.const 0))
        (call $open (call $folder (i32.const 2))
            (i32.const 0) (i32.const 256) (i32.const 4) (i32.const 1) (i32.const 2) (i32.const 16))
        (if (i32.load8_u (i32.const 16)) (then (unreachable)))
        (call $cross (call $link (i32.const 2) (i32.const 0)))
        (call $cross (call $rename (i32.const 2) (i32.const 1)))
        (call $cross (call $rename (i32.const 0) (i32.const 2)))
        (call $rename (i32.const 2) (i32.const 3))))

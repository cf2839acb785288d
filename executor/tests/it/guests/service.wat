;; A service that does what the first letter of a path says:
;; /hello   says hello, here and to standard output
;; /echo    gives the request's body back, as it comes
;; /trap    traps
;; /spin    never ends
;; /nothing returns without an answer
;; /memory  takes memory until it gets no more, then traps
;; /fetch//AUTHORITY  gives on what http://AUTHORITY/ answers, or the number of the error
(module
  (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-splice"
    (func $splice (param i32 i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-output (param i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]input-stream" (func $drop-input (param i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop-pollable (param i32)))
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[method]incoming-request.path-with-query"
    (func $path (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]incoming-request.consume"
    (func $consume-request (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]incoming-body.stream" (func $stream (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response"
    (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.set-status-code"
    (func $set-status (param i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.body"
    (func $response-body (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $body-write (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish"
    (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]response-outparam.set"
    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-request"
    (func $request (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-scheme"
    (func $set-scheme (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-authority"
    (func $set-authority (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-path-with-query"
    (func $set-path (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]future-incoming-response.subscribe"
    (func $subscribe (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]future-incoming-response.get"
    (func $get (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]incoming-response.consume"
    (func $consume-response (param i32 i32)))
  (import "wasi:http/outgoing-handler@0.2.0" "handle"
    (func $send (param i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "hello/")
  (global $top (mut i32) (i32.const 4096))
  ;; What the host hands over lies at 4096 and above; what it answers, at 1024.
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.and
      (i32.add (i32.add (global.get $top) (local.get 3)) (i32.const 7)) (i32.const -8)))
    (local.get $at))

  ;; A handle out of a `result<handle>` that the host has just answered.
  (func $handle (result i32)
    (if (i32.load8_u (i32.const 1024)) (then unreachable))
    (i32.load (i32.const 1028)))

  (func $say-hello (param $to i32)
    (call $write (local.get $to) (i32.const 16) (i32.const 5) (i32.const 1024)))

  ;; Sends the head of an answer; gives its body.
  (func $answer (param $out i32) (param $status i32) (result i32)
    (local $response i32) (local $body i32)
    (local.set $response (call $response (call $fields)))
    (drop (call $set-status (local.get $response) (local.get $status)))
    (call $response-body (local.get $response) (i32.const 1024))
    (local.set $body (call $handle))
    (call $set (local.get $out) (i32.const 0) (local.get $response)
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (local.get $body))

  (func $stream-of (param $body i32) (result i32)
    (call $body-write (local.get $body) (i32.const 1024))
    (call $handle))

  (func $end (param $body i32) (param $stream i32)
    (call $drop-output (local.get $stream))
    (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 1024)))

  ;; Gives an incoming body on until it ends.
  (func $pass-on (param $from i32) (param $out i32)
    (local $body i32) (local $to i32) (local $source i32)
    (call $stream (local.get $from) (i32.const 1024))
    (local.set $source (call $handle))
    (local.set $body (call $answer (local.get $out) (i32.const 200)))
    (local.set $to (call $stream-of (local.get $body)))
    (loop $again
      (call $splice (local.get $to) (local.get $source) (i64.const 4096) (i32.const 1024))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 1024)))))
    (call $drop-input (local.get $source))
    (call $end (local.get $body) (local.get $to)))

  ;; Answers with the number of an error, as one character from `A` on.
  (func $tell (param $code i32) (param $out i32)
    (local $body i32) (local $to i32)
    (local.set $body (call $answer (local.get $out) (i32.const 502)))
    (local.set $to (call $stream-of (local.get $body)))
    (i32.store8 (i32.const 24) (i32.add (local.get $code) (i32.const 65)))
    (call $write (local.get $to) (i32.const 24) (i32.const 1) (i32.const 1024))
    (call $end (local.get $body) (local.get $to)))

  (func $fetch (param $authority i32) (param $len i32) (param $out i32)
    (local $request i32) (local $future i32) (local $pollable i32)
    (local.set $request (call $request (call $fields)))
    (drop (call $set-scheme (local.get $request)
      (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
    (drop (call $set-authority (local.get $request)
      (i32.const 1) (local.get $authority) (local.get $len)))
    (drop (call $set-path (local.get $request) (i32.const 1) (i32.const 21) (i32.const 1)))
    (call $send (local.get $request) (i32.const 0) (i32.const 0) (i32.const 1024))
    ;; The payload of this result is aligned as its error's numbers of 64 bits are.
    (if (i32.load8_u (i32.const 1024))
      (then (call $tell (i32.load8_u (i32.const 1032)) (local.get $out)) (return)))
    (local.set $future (i32.load (i32.const 1032)))
    (local.set $pollable (call $subscribe (local.get $future)))
    (call $block (local.get $pollable))
    (call $drop-pollable (local.get $pollable))
    ;; option, result and result before the handle or the error, each aligned to 8.
    (call $get (local.get $future) (i32.const 1024))
    (if (i32.load8_u (i32.const 1040))
      (then (call $tell (i32.load8_u (i32.const 1048)) (local.get $out)) (return)))
    (call $consume-response (i32.load (i32.const 1048)) (i32.const 1024))
    (call $pass-on (call $handle) (local.get $out)))

  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $request i32) (param $out i32)
    (local $path i32) (local $len i32) (local $letter i32) (local $body i32) (local $to i32)
    (call $path (local.get $request) (i32.const 1024))
    (local.set $path (i32.load (i32.const 1028)))
    (local.set $len (i32.load (i32.const 1032)))
    (local.set $letter (i32.load8_u offset=1 (local.get $path)))
    (if (i32.eq (local.get $letter) (i32.const 104)) (then ;; h
      (call $say-hello (call $stdout))
      (local.set $body (call $answer (local.get $out) (i32.const 200)))
      (local.set $to (call $stream-of (local.get $body)))
      (call $say-hello (local.get $to))
      (call $end (local.get $body) (local.get $to))
      (return)))
    (if (i32.eq (local.get $letter) (i32.const 101)) (then ;; e
      (call $consume-request (local.get $request) (i32.const 1024))
      (call $pass-on (call $handle) (local.get $out))
      (return)))
    (if (i32.eq (local.get $letter) (i32.const 102)) (then ;; f, with 8 bytes before the authority
      (call $fetch (i32.add (local.get $path) (i32.const 8))
        (i32.sub (local.get $len) (i32.const 8)) (local.get $out))
      (return)))
    (if (i32.eq (local.get $letter) (i32.const 115)) (then (loop $for-ever (br $for-ever)))) ;; s
    (if (i32.eq (local.get $letter) (i32.const 110)) (then (return))) ;; n
    (if (i32.eq (local.get $letter) (i32.const 109)) (then ;; m
      (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))))
    unreachable))

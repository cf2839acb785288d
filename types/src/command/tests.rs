//! What a command may say, and what it may not.

use super::*;

fn check(json: &str) -> Result<(), String> {
    let command: CommandWorkload = serde_json::from_str(json).map_err(|error| error.to_string())?;
    command.validate()
}

#[test]
fn a_command_says_how_it_lives() {
    for good in [
        r#"{"argv": ["a"], "options": {"restart": {}, "logs": {"max_bytes": 4096, "files": 3}}}"#,
        r#"{"argv": ["a"], "options": {"stdin": "terminal", "cpuset": "0-3,8"}}"#,
        r#"{"argv": ["a"], "options": {"io": {"weight": 10, "read_bytes": 1000000}}}"#,
        r#"{"argv": ["a"], "container": {}, "options": {"companions": [
            {"name": "fill", "role": "init", "argv": ["b"], "restart": {"most": 3}},
            {"name": "proxy", "argv": ["c"], "mem_bytes": 1000000},
            {"name": "other", "role": "peer", "container": {"image": "busybox"}}]}}"#,
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_name() {
    let companions = |list: &str| {
        format!(r#"{{"argv": ["a"], "container": {{}}, "options": {{"companions": [{list}]}}}}"#)
    };
    let options = |text: &str| format!(r#"{{"argv": ["a"], "options": {{{text}}}}}"#);
    for (bad, hint) in [
        (options(r#""cpuset": "3-1""#), "0-3,8"),
        (options(r#""cpuset": """#), "0-3,8"),
        (options(r#""io": {"weight": 0}"#), "1 to 1000"),
        (options(r#""io": {"reads": 0}"#), "leave out"),
        (options(r#""logs": {"max_bytes": 1}"#), "4 KiB"),
        (
            options(r#""restart": {"backoff_ms": 5, "max_backoff_ms": 1}"#),
            "max_backoff_ms",
        ),
        (
            options(r#""companions": [{"name": "x", "argv": ["b"]}]"#),
            "`container`",
        ),
        (
            companions(r#"{"name": "main", "argv": ["b"]}"#),
            "not `main`",
        ),
        (companions(r#"{"name": "x"}"#), "name the program"),
        (
            companions(r#"{"name": "x", "argv": ["b"], "container": {"network": "none"}}"#),
            "the command's own",
        ),
        (
            companions(
                r#"{"name": "x", "argv": ["b"], "container": {"image": "i", "userns": "private"}}"#,
            ),
            "the command's own",
        ),
        (
            r#"{"argv": ["a"], "container": {"image": "i", "userns": "private"},
                "options": {"companions": [{"name": "x", "argv": ["b"]}]}}"#
                .to_owned(),
            "companion `x`",
        ),
        (
            companions(
                r#"{"name": "x", "role": "init", "argv": ["b"], "restart": {"after": "any"}}"#,
            ),
            "ends",
        ),
        (
            companions(r#"{"name": "x", "argv": ["b"]}, {"name": "x", "argv": ["b"]}"#),
            "each once",
        ),
    ] {
        let error = check(&bad).unwrap_err();
        assert!(error.contains(hint), "{bad}: {error}");
    }
}

#[test]
fn sidecars_are_started_again_unless_they_say_how() {
    let companion = |json: &str| serde_json::from_str::<Companion>(json).unwrap().restart();
    let always = companion(r#"{"name": "x", "argv": ["b"]}"#).unwrap();
    assert_eq!(always.after, RestartAfter::Any);
    let said = companion(r#"{"name": "x", "argv": ["b"], "restart": {"most": 0}}"#).unwrap();
    assert_eq!((said.after, said.most), (RestartAfter::Failure, Some(0)));
    assert_eq!(
        companion(r#"{"name": "x", "role": "peer", "argv": ["b"]}"#),
        None
    );
}

#[test]
fn an_image_that_is_a_program_is_given_what_programs_are() {
    let command = |json: &str| {
        let command: CommandWorkload = serde_json::from_str(json).unwrap();
        command.validate().map(|()| command)
    };
    let program = r#"{"argv": ["a", "b"], "env": {"X": "y"},
        "container": {"image": "r.example/p:1", "pull": "always"},
        "options": {"wasm": {"listen": true, "connect": ["*:443"]}}}"#;
    let artifact = Digest::of(b"its bytes");
    let wasm = command(program).unwrap().as_wasm(artifact).unwrap();
    assert_eq!((wasm.artifact, wasm.args.len()), (artifact, 2));
    assert_eq!(wasm.env["X"], "y");
    assert!(wasm.options.unwrap().listen);
    for (json, hint) in [
        (r#"{"argv": ["a"], "options": {"wasm": {}}}"#, "name one"),
        (
            r#"{"argv": [], "container": {"image": "p"}, "options": {"wasm": {"concurrency": 0}}}"#,
            "wasm: concurrency",
        ),
    ] {
        let error = command(json).unwrap_err();
        assert!(error.contains(hint), "{json}: {error}");
    }
}

#[test]
fn what_a_program_does_not_have_is_refused_once_its_image_is_one() {
    for (json, hint) in [
        (
            r#"{"argv": [], "container": {"image": "p", "user": "1"}}"#,
            "no container",
        ),
        (
            r#"{"argv": [], "container": {"image": "p", "network": {"named": {"name": "web"}}}}"#,
            "no container",
        ),
        (
            r#"{"argv": [], "container": {"image": "p"}, "options": {"stdin": "open"}}"#,
            "`wasm`",
        ),
        (
            r#"{"argv": [], "container": {"image": "p"}, "options": {"restart": {}}}"#,
            "leave out",
        ),
        (
            r#"{"argv": [], "container": {"image": "p"}, "options": {"companions": [
                {"name": "x", "argv": ["b"]}]}}"#,
            "companions",
        ),
    ] {
        let command: CommandWorkload = serde_json::from_str(json).unwrap();
        assert_eq!(command.validate(), Ok(()), "{json}");
        let refused = command.as_wasm(Digest::of(b"p")).unwrap_err();
        assert!(refused.contains(hint), "{json}: {refused}");
    }
}

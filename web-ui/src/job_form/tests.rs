//! What the form makes of what was typed.

use super::*;

fn command_form(argv: &str) -> JobForm {
    JobForm {
        kind: Kind::Command,
        argv: argv.into(),
        ..JobForm::default()
    }
}

#[test]
fn a_command_becomes_a_job_with_the_usual_resources() {
    let job = command_form("echo 'hello there'").job().unwrap();
    assert_eq!(job.name, None);
    assert_eq!(job.resources, job::default_resources());
    assert_eq!((job.count, job.max_restarts, job.priority), (1, 0, 0));
    let Workload::Command(command) = job.workload else {
        panic!("not a command")
    };
    assert_eq!(command.argv, ["echo", "hello there"]);
}

#[test]
fn an_image_needs_no_command_and_must_be_one() {
    let form = |image: &str, argv: &str| JobForm {
        image: image.into(),
        ..command_form(argv)
    };
    let job = form(" busybox:1.36 ", "").job().unwrap();
    let Workload::Command(command) = job.workload else {
        panic!("not a command")
    };
    assert_eq!(command.image().unwrap().to_string(), "busybox:1.36");
    assert!(command.argv.is_empty());
    let problems = form("Not An Image", "true").job().unwrap_err();
    assert_eq!(problems.into_keys().collect::<Vec<_>>(), [Field::Image]);
}

#[test]
fn a_program_becomes_a_job_once_its_file_is_known() {
    let mut form = JobForm {
        args: "-n 'two words'".into(),
        ..JobForm::default()
    };
    form.env = "A=1\n\nB=x=y\n".into();
    assert_eq!(
        form.job().unwrap_err().into_keys().collect::<Vec<_>>(),
        [Field::File]
    );
    form.artifact = Some(Digest::of(b"\0asm"));
    let Workload::Wasm(wasm) = form.job().unwrap().workload else {
        panic!("not wasm")
    };
    assert_eq!(wasm.args, ["-n", "two words"]);
    assert_eq!(wasm.env["B"], "x=y");
}

#[test]
fn all_tests_of_agents_must_hold() {
    let form = JobForm {
        role: " eng/web ".into(),
        time_limit: "90".into(),
        wanted: "zone=a\n\n !ssd\n".into(),
        ..command_form("true")
    };
    let job = form.job().unwrap();
    let tests = ["zone=a", "!ssd"].map(|test| test.parse().unwrap());
    assert_eq!(job.constraints, Constraints(vec![tests.to_vec()]));
    assert_eq!(job.time_limit_ms, Some(90_000));
    assert_eq!(job.role.unwrap().as_str(), "eng/web");
    let plain = command_form("true").job().unwrap();
    assert!(plain.constraints.is_empty() && plain.role.is_none() && plain.time_limit_ms.is_none());
}

#[test]
fn gangs_and_volumes_are_asked_for() {
    let form = JobForm {
        count: "3".into(),
        volumes: " data, logs ,".into(),
        is_gang: true,
        gang_wait: "60".into(),
        ..command_form("true")
    };
    let job = form.job().unwrap();
    assert_eq!(job.volumes, ["data", "logs"]);
    assert_eq!((job.gang, job.gang_wait_ms), (true, Some(60_000)));
    let lone = JobForm {
        is_gang: false,
        ..form.clone()
    };
    assert!(lone.job().unwrap_err().contains_key(&Field::GangWait));
    let large = JobForm {
        count: "100000".into(),
        ..form
    };
    assert!(large.job().unwrap_err().contains_key(&Field::Count));
}

#[test]
fn each_wrong_field_has_its_message() {
    let form = JobForm {
        name: "Not A Name".into(),
        env: "A=1\nnothing".into(),
        cpus: "0".into(),
        mem_mib: "1.5".into(),
        count: "100001".into(),
        restarts: "-1".into(),
        priority: "1001".into(),
        role: "Eng".into(),
        time_limit: "soon".into(),
        wanted: "zone=a\n=b".into(),
        ..command_form("echo 'open")
    };
    let problems = form.job().unwrap_err();
    assert_eq!(problems.len(), 11);
    assert_eq!(
        problems[&Field::Where],
        "Line 2 is not like zone=a, zone!=a, rack~r* or !ssd."
    );
    assert_eq!(problems[&Field::Env], "Line 2 is not NAME=VALUE.");
    assert_eq!(
        problems[&Field::Count],
        "Use a whole number from 1 to 100,000."
    );
    assert_eq!(
        problems[&Field::Argv],
        "Cannot be split: a ' is opened and not closed."
    );
}

#[test]
fn fields_of_the_other_tab_do_not_matter() {
    let form = JobForm {
        args: "'open".into(),
        ..command_form("true")
    };
    assert!(form.job().is_ok());
    assert!(
        command_form(" ")
            .job()
            .unwrap_err()
            .contains_key(&Field::Argv)
    );
    assert!(command_form("'' x").job().is_err());
}

#[test]
fn amounts_are_exact() {
    for (text, milli) in [("0.1", 100), ("2", 2000), (" 0.001 ", 1), ("1.2345", 1235)] {
        assert_eq!(milli_cpus(text), Ok(MilliCpus(milli)), "{text}");
    }
    for text in ["", "nan", "inf", "-1", "0.0001", "1e9", "one"] {
        assert!(milli_cpus(text).is_err(), "{text}");
    }
    assert_eq!(memory("64"), Ok(Bytes::mib(64)));
    assert!(memory("99999999999").is_err());
}

#[test]
fn a_name_is_set_once() {
    assert_eq!(
        environment("A=1\n A=2").unwrap_err(),
        "Line 2 sets A a second time."
    );
    assert_eq!(environment("=1").unwrap_err(), "Line 1 is not NAME=VALUE.");
    assert!(environment("  \n").unwrap().is_empty());
}

#[test]
fn a_program_is_given_what_the_form_says() {
    let form = |connect: &str, stdin: &str| JobForm {
        artifact: Some(Digest::of(b"\0asm")),
        connect: connect.into(),
        stdin: stdin.into(),
        ports: "2".into(),
        ..JobForm::default()
    };
    let options = |form: JobForm| {
        let job = form.job().unwrap();
        assert_eq!(job.resources.ports, 2);
        let Workload::Wasm(wasm) = job.workload else {
            panic!("not wasm")
        };
        wasm.options
    };
    assert_eq!(options(form(" ", "")), None);
    let given = options(form("db.example:5432, *:443 [::1]:*", "two\nlines\n")).unwrap();
    let connect: Vec<_> = given.connect.iter().map(ToString::to_string).collect();
    assert_eq!(connect, ["db.example:5432", "*:443", "[::1]:*"]);
    assert_eq!(given.stdin, Some(Stdin::Text("two\nlines\n".into())));
    let long = "x".repeat(WasmOptions::MAX_STDIN_TEXT + 1);
    let problems = form("db.example", &long).job().unwrap_err();
    assert!(problems[&Field::Connect].contains("HOST:PORT"));
    assert!(problems[&Field::Stdin].contains("16,384"));
    // A command has none of it.
    let command = JobForm {
        kind: Kind::Command,
        argv: "true".into(),
        ..form("db.example", &long)
    };
    assert!(command.job().is_ok());
}

//! What stands at the fields of the form that submits a job.

use tepui_web::job_form::Field;

use crate::components::field::Words;

/// The command line.
pub const ARGV: Words = Words {
    id: "submit-command-argv",
    label: "Command",
    hint: "No shell runs it. For pipes and variables: sh -c '…'",
};
/// The image that it runs from.
pub const IMAGE: Words = Words {
    id: "submit-command-image",
    label: "Image",
    hint: "Optional: runs in a container of this image, which may say the command itself, or be a WebAssembly program.",
};
/// The program to upload.
pub const FILE: Words = Words {
    id: "submit-wasm-file",
    label: "Program",
    hint: "A wasi:cli component, a WASI preview 1 module or a wasi:http service.",
};
/// The program's arguments.
pub const ARGS: Words = Words {
    id: "submit-wasm-args",
    label: "Arguments",
    hint: "Quotes keep words together.",
};
/// Whom the program may connect to.
pub const CONNECT: Words = Words {
    id: "submit-wasm-connect",
    label: "May connect to",
    hint: "HOST:PORT each: an address, a network such as 10.0.0.0/8, a name or *. Nowhere when empty.",
};
/// What the program reads.
pub const STDIN: Words = Words {
    id: "submit-wasm-stdin",
    label: "Standard input",
    hint: "What the program reads. A service reads none.",
};
/// The job's name.
pub const NAME: Words = Words {
    id: "submit-name",
    label: "Name",
    hint: "Made up when empty.",
};
/// Environment.
pub const ENV: Words = Words {
    id: "submit-env",
    label: "Environment",
    hint: "NAME=VALUE, a line each.",
};
/// Processors.
pub const CPUS: Words = Words {
    id: "submit-cpus",
    label: "Cpus",
    hint: "Of each task.",
};
/// Memory.
pub const MEM: Words = Words {
    id: "submit-mem",
    label: "Memory, MiB",
    hint: "Of each task.",
};
/// How many tasks.
pub const COUNT: Words = Words {
    id: "submit-count",
    label: "Tasks",
    hint: "An array, from 2 on.",
};
/// How many ports.
pub const PORTS: Words = Words {
    id: "submit-ports",
    label: "Ports",
    hint: "Of each task, in TEPUI_PORTS. A wasi:http service wants one.",
};
/// How often a failed task is run again.
pub const RESTARTS: Words = Words {
    id: "submit-restarts",
    label: "Restarts",
    hint: "Of a task that failed.",
};
/// What goes first.
pub const PRIORITY: Words = Words {
    id: "submit-priority",
    label: "Priority",
    hint: "Higher goes first.",
};
/// Which role is charged.
pub const ROLE: Words = Words {
    id: "submit-role",
    label: "Role",
    hint: "Charged for it; the framework's first when empty.",
};
/// After which time a task is ended.
pub const TIME_LIMIT: Words = Words {
    id: "submit-time-limit",
    label: "Time limit, seconds",
    hint: "Of each task; none when empty.",
};
/// Which volumes.
pub const VOLUMES: Words = Words {
    id: "submit-volumes",
    label: "Volumes",
    hint: "Persistent ones that each task uses, with commas between them; it runs where they are.",
};
/// After which time a gang is given up.
pub const GANG_WAIT: Words = Words {
    id: "submit-gang-wait",
    label: "Give a gang up after, seconds",
    hint: "Waits for ever when empty.",
};
/// On which agents.
pub const WHERE: Words = Words {
    id: "submit-where",
    label: "Only on agents where",
    hint: "A test a line, of an attribute or the hostname: zone=a, zone!=a, rack~r*, ssd, !ssd. All must hold.",
};

/// Those that are only seen once the form is unfolded.
pub const FOLDED: [Words; 9] = [
    ENV, PORTS, RESTARTS, PRIORITY, ROLE, TIME_LIMIT, WHERE, VOLUMES, GANG_WAIT,
];

/// The words at a field.
pub fn of(field: Field) -> Words {
    match field {
        Field::File => FILE,
        Field::Argv => ARGV,
        Field::Image => IMAGE,
        Field::Name => NAME,
        Field::Args => ARGS,
        Field::Connect => CONNECT,
        Field::Stdin => STDIN,
        Field::Env => ENV,
        Field::Cpus => CPUS,
        Field::Mem => MEM,
        Field::Count => COUNT,
        Field::Ports => PORTS,
        Field::Restarts => RESTARTS,
        Field::Priority => PRIORITY,
        Field::Role => ROLE,
        Field::TimeLimit => TIME_LIMIT,
        Field::Where => WHERE,
        Field::Volumes => VOLUMES,
        Field::GangWait => GANG_WAIT,
    }
}

//! The codes of [`Reason`](super::Reason) that Tepui itself gives: stable, for programs.

/// The launch asked for more than was free when it was committed.
pub const RESOURCES_TAKEN: &str = "resources-taken";
/// The launch was to take another task's place, and others want that, or too many wait for it.
pub const PLACE_WANTED: &str = "place-wanted";
/// The launch named an agent that takes no tasks now.
pub const AGENT_UNAVAILABLE: &str = "agent-unavailable";
/// The launch would have passed the limit of its role.
pub const QUOTA_REACHED: &str = "quota-reached";
/// It named what is reserved for other roles.
pub const RESERVED_FOR_OTHERS: &str = "reserved-for-others";
/// An operation on resources that cannot be, whatever is free.
pub const CONVERSION_INVALID: &str = "operation-invalid";
/// The launch named a role that is not one of the framework's.
pub const ROLE_FOREIGN: &str = "role-foreign";
/// The launch reused a name and attempt.
pub const TASK_EXISTS: &str = "task-exists";
/// The artifact is not known to the cluster.
pub const ARTIFACT_UNKNOWN: &str = "artifact-unknown";
/// The artifact could not be fetched.
pub const ARTIFACT_UNAVAILABLE: &str = "artifact-unavailable";
/// The bytes are not a WebAssembly program that can run here.
pub const WASM_INVALID: &str = "wasm-invalid";
/// The program wants an import that the host does not give.
pub const WASM_IMPORT_MISSING: &str = "wasm-import-missing";
/// The program trapped.
pub const WASM_TRAP: &str = "wasm-trap";
/// It serves requests, and its task has no port.
pub const PORT_MISSING: &str = "port-missing";
/// Something else listens on its port.
pub const PORT_TAKEN: &str = "port-taken";
/// It listens on a port that is not its own.
pub const PORT_FOREIGN: &str = "port-foreign";
/// It ran past its deadline.
pub const DEADLINE: &str = "deadline";
/// A framework's `start` answered with an error.
pub const START_FAILED: &str = "start-failed";
/// A framework's artifact cannot run as one here.
pub const NOT_FRAMEWORK: &str = "not-a-framework";
/// A framework's turn broke a limit of the cluster.
pub const TURN_REJECTED: &str = "turn-rejected";
/// More memory was asked for than the task has.
pub const MEMORY_LIMIT: &str = "memory-limit";
/// More processes were asked for than the task may have.
pub const PIDS_LIMIT: &str = "pids-limit";
/// It exited with another code than 0.
pub const EXIT_CODE: &str = "exit-code";
/// A signal ended it.
pub const SIGNAL: &str = "signal";
/// The command could not be executed.
pub const COMMAND_FAILED: &str = "command-failed";
/// Its image does not say what an image has to say; others of its reasons begin with `image-`, too.
pub const IMAGE_INVALID: &str = "image-invalid";
/// What its container needs is being got; the message says how far that is.
pub const PREPARING: &str = "preparing";
/// What its container is to be is not allowed on its agent.
pub const CONTAINER_REFUSED: &str = "container-refused";
/// Something for its sandbox could not be fetched; others of its reasons begin with `fetch-`, too.
pub const FETCH_FAILED: &str = "fetch-failed";
/// It has used more of the disk than it has.
pub const DISK_LIMIT: &str = "disk-limit";
/// One of its volumes cannot be used on its agent now.
pub const VOLUME_UNAVAILABLE: &str = "volume-unavailable";
/// Its network could not be made.
pub const NETWORK_FAILED: &str = "network-failed";
/// Its health check, or its start-up check, has failed.
pub const HEALTH_CHECK_FAILED: &str = "health-check-failed";
/// Its executor process ended under it.
pub const EXECUTOR_TERMINATED: &str = "executor-terminated";
/// Its executor could not be started.
pub const EXECUTOR_FAILED: &str = "executor-failed";
/// Its executor does not understand its agent: they are of different releases.
pub const EXECUTOR_UNFIT: &str = "executor-unfit";
/// The agent has no room for more tasks: its disk is full, or its machine short of memory or processes.
pub const AGENT_FULL: &str = "agent-full";
/// Someone asked for its end.
pub const KILL_REQUESTED: &str = "kill-requested";
/// Its framework was removed.
pub const FRAMEWORK_REMOVED: &str = "framework-removed";
/// Its agent has not been heard of.
pub const AGENT_UNREACHABLE: &str = "agent-unreachable";
/// Its agent came back without it.
pub const AGENT_FORGOT: &str = "agent-forgot";
/// Its agent's machine was restarted.
pub const AGENT_REBOOTED: &str = "agent-rebooted";
/// It was ended because its agent is being drained.
pub const AGENT_DRAINED: &str = "agent-drained";
/// It was ended for a role that is below its guarantee.
pub const PREEMPTED: &str = "preempted";
/// Its agent needed back what it had lent beyond what is firm.
pub const UNDER_PRESSURE: &str = "under-pressure";
/// It had run for as long as its time limit says.
pub const TIME_LIMIT: &str = "time-limit";
/// An operator has said that its agent never comes back.
pub const AGENT_GONE: &str = "agent-gone";
/// Its agent was not heard of for as long as its partition policy waits.
pub const REPLACED: &str = "replaced";
/// Its agent ended it, having heard nothing of the masters for too long.
pub const STOPPED_UNHEARD: &str = "stopped-unheard";
/// Another task of its gang could not be launched.
pub const GANG_INCOMPLETE: &str = "gang-incomplete";
/// A gang did not fit for as long as it waits.
pub const GANG_OVERDUE: &str = "gang-overdue";

//! Several tasks that are to end.

use tepui_types::command::CommandStdin;

use crate::master::{Master, task};
use crate::process::Tepui;

#[tokio::test]
async fn each_named_task_is_ended_also_where_another_is_not() {
    let master = Master::start().await;
    let tepui = Tepui::start_heard(&master, &["task", "kill", "f1.t.0", "f1.t.1", "f1.t.2"]);
    let living = task(0, CommandStdin::Nothing);
    for (number, is_there) in [(0, true), (1, false), (2, true)] {
        let asked = master.request().await;
        assert_eq!(asked.line, format!("post /v1/tasks/f1.t.{number}/kill"));
        match is_there {
            true => asked.json(&living).await,
            false => asked.refuse(404, "no such task").await,
        }
    }
    let (code, said) = tepui.ends().await;
    assert_eq!(code, Some(1));
    assert!(said.contains("f1.t.1 is not ended: no such task"), "{said}");
}

//! What takes more than a command: a gang's launch, and what is taken back.

use tepui_cluster::Command;
use tepui_types::operation::{Launch, Operation};
use tepui_types::resources::ResourceRequest;
use tepui_types::*;

use super::Stage;
use crate::support::launch;

impl Stage {
    /// Launches a gang on the offers that it has, and wants it no more.
    pub fn launch_gang(&mut self, name: &str, key: &str) -> String {
        let framework = self.frameworks[name];
        let record = self.log.state.framework(framework).unwrap().clone();
        let gang = record.gangs[key].gang.clone();
        let is_its = |(to, offer): &(FrameworkId, Offer)| {
            *to == framework && offer.gang.as_ref().is_some_and(|share| share.key == key)
        };
        let (offers, others) = std::mem::take(&mut self.held).into_iter().partition(is_its);
        self.held = others;
        let (mut launches, mut attempt) = (Vec::new(), record.next_attempt);
        for (_, offer) in &offers {
            let mut left = offer.resources.clone();
            for (part, count) in &offer.gang.as_ref().unwrap().parts {
                for _ in 0..*count {
                    let request = &gang.parts[*part as usize].request;
                    let picked = left.pick(request).expect("it is all there");
                    left = left.saturating_sub(&picked);
                    let task = format!("{name}-{attempt}");
                    let Operation::Launch(launch) = launch(offer.agent, &task, picked) else {
                        panic!("a launch");
                    };
                    let role = Some(offer.role.clone());
                    launches.push(Launch { role, ..launch });
                    let id = TaskId {
                        framework,
                        name: task.parse().unwrap(),
                        attempt,
                    };
                    self.tasks.insert(task, id);
                    attempt += 1;
                }
            }
        }
        let count = launches.len();
        let said = self.turn(name, |turn| {
            turn.gangs.push((key.into(), None));
            turn.operations.push(Operation::LaunchGang(launches));
        });
        let ids: Vec<_> = offers.iter().map(|(_, offer)| offer.id).collect();
        self.allocator.answered(&ids);
        let tasks = &self.log.state.tasks;
        let dropped = tasks.values().find(|task| {
            task.id.framework == framework
                && task.id.attempt == record.next_attempt
                && task.status.state == TaskState::Dropped
        });
        let dropped = dropped.and_then(|task| task.status.reason.clone());
        match dropped {
            Some(why) => format!("{said}all {count} are dropped: {}\n", why.message),
            None => format!("{said}{count} tasks are launched\n"),
        }
    }

    /// Plans once what is to be taken back, and does it.
    pub fn preempt(&mut self) -> String {
        let state = &mut self.log.state;
        let Some(wish) = self.allocator.plan_preemption(state) else {
            return "nothing is taken back\n".into();
        };
        let said = wish.places.iter().map(|place| {
            let victims: Vec<_> = place.victims.iter().map(|id| id.name.as_str()).collect();
            let hostname = &state.agent(place.agent).unwrap().info.hostname;
            let role = &wish.role;
            match (victims.is_empty(), &wish.gang) {
                (true, None) => format!("{role} claims what ends on {hostname}\n"),
                (true, Some(_)) => format!("{role} claims {} on {hostname}\n", of(&place.request)),
                (false, _) => format!("{role} ends {} on {hostname}\n", victims.join(", ")),
            }
        });
        let said: String = said.collect();
        said + &self.apply(Command::Preempt(wish))
    }
}

/// Amounts as people write them.
fn of(request: &ResourceRequest) -> String {
    let amounts = request.entries();
    let amounts = amounts.map(|(name, _)| format!("{} {name}", request.show(name)));
    amounts.collect::<Vec<_>>().join(", ")
}

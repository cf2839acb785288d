//! What is done with an agent's resources.

use tepui_cluster::Command;
use tepui_types::operation::{Convert, Operation};
use tepui_types::resources::{Conversion, Disk, Pool, Reservation, Volume};
use tepui_types::*;

use super::{Stage, words::resources};

impl Stage {
    /// Does what a line says, if it is of such a thing.
    pub(super) fn play_operation(&mut self, words: &[&str]) -> Option<String> {
        Some(match words[..] {
            ["reserve", agent, role, ref rest @ ..] => {
                let resources = self.resources(agent, rest);
                let reservation = Reservation::dynamic(role.parse().unwrap());
                self.operate(
                    agent,
                    Conversion::Reserve {
                        resources,
                        reservation,
                    },
                )
            }
            ["unreserve", agent, ref rest @ ..] => {
                let resources = self.resources(agent, rest);
                self.operate(agent, Conversion::Unreserve { resources })
            }
            ["create", agent, disk, "as", id, ref rest @ ..] => {
                let disk = self.resources(agent, &[disk]);
                let volume = Volume {
                    id: id.into(),
                    path: "data".into(),
                    shared: rest.contains(&"shared"),
                };
                let disk = disk.pools.as_slice()[0].clone();
                self.operate(agent, Conversion::Create { disk, volume })
            }
            ["destroy", agent, id] => {
                let volume = id.into();
                self.operate(agent, Conversion::Destroy { volume })
            }
            ["grow", agent, id, "by", gib] => {
                let (volume, by) = (id.into(), Bytes::gib(gib.parse().unwrap()));
                self.operate(agent, Conversion::Grow { volume, by })
            }
            ["shrink", agent, id, "by", gib] => {
                let (volume, by) = (id.into(), Bytes::gib(gib.parse().unwrap()));
                self.operate(agent, Conversion::Shrink { volume, by })
            }
            ["turn", name, "reserves", agent, role, ref rest @ ..] => {
                let resources = self.resources(agent, rest);
                let reservation = Reservation::dynamic(role.parse().unwrap());
                let conversion = Conversion::Reserve {
                    resources,
                    reservation,
                };
                self.convert(name, agent, conversion)
            }
            ["turn", name, "unreserves", agent, ref rest @ ..] => {
                let resources = self.resources(agent, rest);
                self.convert(name, agent, Conversion::Unreserve { resources })
            }
            ["turn", name, "destroys", agent, id] => {
                let volume = id.into();
                self.convert(name, agent, Conversion::Destroy { volume })
            }
            ["show", agent] => {
                let agent = self.log.state.agent(self.agents[agent]).unwrap();
                format!("{}, of which free: {}\n", agent.total(), agent.free())
            }
            ["charge", role] => {
                let used = self.log.state.role_use(&role.parse().unwrap());
                format!("{} cpus, {} disk\n", used.show("cpus"), used.show("disk"))
            }
            _ => return None,
        })
    }

    fn operate(&mut self, agent: &str, conversion: Conversion) -> String {
        let agent = self.agents[agent];
        let wish = Wish::Exactly(conversion);
        self.apply(Command::Operate { agent, wish })
    }

    /// An operation of a turn; answers why it was dropped.
    fn convert(&mut self, name: &str, agent: &str, conversion: Conversion) -> String {
        let agent = self.agents[agent];
        let operation = Operation::Convert(Convert {
            agent,
            name: "mine".into(),
            conversion,
            role: None,
        });
        let said = self.turn(name, |turn| turn.operations.push(operation));
        let (_, last) = self.log.state.conversions.get_max().unwrap();
        let record = self.log.state.framework(self.frameworks[name]).unwrap();
        let told = record
            .notices
            .values()
            .next_back()
            .map(|notice| &notice.reason);
        match &last.reason {
            Some(reason) => {
                assert_eq!(told, Some(reason), "its framework is told");
                format!("{said}{} is dropped: {}\n", last.name, reason.message)
            }
            None => said,
        }
    }

    /// `cpus=1 eng:cpus=2 volume:data`: of what is plain, of what is reserved for a role on an agent,
    /// and volumes of it.
    pub(super) fn resources(&self, agent: &str, words: &[&str]) -> Resources {
        let agent = self.log.state.agent(self.agents[agent]).unwrap();
        let (special, plain): (Vec<&str>, Vec<&str>) =
            words.iter().partition(|word| word.contains(':'));
        let mut all = resources(&plain);
        for word in special {
            let (of, what) = word.split_once(':').unwrap();
            let is_meant = |pool: &&Pool| match of {
                "volume" => pool
                    .kind
                    .volume
                    .as_ref()
                    .is_some_and(|volume| volume.id == what),
                "disk" => {
                    matches!(&pool.kind.disk, Some(Disk::Mount(id) | Disk::Path(id)) if id == what)
                }
                "revocable" => pool.kind.revocable,
                role => {
                    let owner = pool
                        .kind
                        .owner()
                        .is_some_and(|owner| owner.as_str() == role);
                    owner && pool.kind.volume.is_none()
                }
            };
            let pool = agent.total().pools.iter().find(is_meant);
            let mut pool = pool
                .unwrap_or_else(|| panic!("no such pool: {word}"))
                .clone();
            if !["volume", "disk"].contains(&of) {
                pool.amounts = resources(&[what]);
            }
            all.pools = all.pools.checked_add(&pool.into()).unwrap();
        }
        all
    }
}

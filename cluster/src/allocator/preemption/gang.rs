//! What is taken back for a gang: room for all of it, or nothing is.
//!
//! First every place is used that needs nobody's end, then tasks end where that
//! costs least, one place after another, until the last task of the gang is
//! placed. What is planned so is claimed for the gang on all of its agents,
//! also where nobody ends: otherwise the first room would be lost by the time
//! that the last is free.

use std::collections::{BTreeMap, BTreeSet};

use tepui_types::gang::Gang;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Role};

use super::super::Allocator;
use super::super::demands::Shape;
use super::super::gangs::Waiting;
use super::super::members::MemberId;
use super::super::plan::largest_part_first;
use super::room::{Cost, Room, Taking};
use crate::state::preemption::{Place, Preemption};
use crate::state::{State, limits};

/// Looks at an agent for more victims, in one plan: some milliseconds' worth.
const LOOKS: usize = 4_096;

/// A gang whose role is below its guarantee.
pub(super) struct OwedGang<'a> {
    pub member: MemberId,
    pub role: &'a Role,
    pub guaranteed: Role,
    pub waiting: &'a Waiting,
}

/// A gang that is being placed.
struct Retaking<'a, 'b> {
    taking: Taking<'a>,
    rooms: BTreeMap<AgentId, Room<'a>>,
    owed: &'b OwedGang<'a>,
    /// How many more tasks may end, and how many more looks may be taken.
    left: usize,
    looks: usize,
}

impl Allocator {
    /// What should be taken back for a gang, if it starts then.
    pub(super) fn plan_for_gang(
        &self,
        state: &State,
        owed: &OwedGang<'_>,
        left: usize,
    ) -> Option<Preemption> {
        let taking = Taking {
            state,
            role: owed.role,
            guaranteed: &owed.guaranteed,
            taken: BTreeMap::new(),
        };
        let candidates = self.candidates(state, &owed.guaranteed).into_iter();
        let rooms = candidates.filter_map(|(agent, tasks)| {
            let room = self.room(&taking, agent, tasks)?;
            Some((agent, room))
        });
        let mut retaking = Retaking {
            rooms: rooms.collect(),
            taking,
            owed,
            left,
            looks: LOOKS,
        };
        let gang = &owed.waiting.gang;
        for part in largest_part_first(gang) {
            let shape = owed.waiting.shapes.get(part)?;
            let mut missing = gang.parts[part].count;
            self.place_without_end(&mut retaking, part as u32, shape, &mut missing);
            self.place_by_end(&mut retaking, part as u32, shape, &mut missing)?;
        }
        let total = gang.total();
        for room in retaking.rooms.values_mut() {
            room.spare(&retaking.taking, |part| {
                gang.parts[part as usize].request.clone()
            });
        }
        let victims = retaking.rooms.values().flat_map(|room| &room.victims);
        let may_start = self.may_start(owed.member, victims.copied(), &total);
        may_start.then(|| retaking.wish(gang)).flatten()
    }

    /// Places as many of a part as need nobody's end.
    fn place_without_end(
        &self,
        retaking: &mut Retaking<'_, '_>,
        part: u32,
        shape: &Shape,
        missing: &mut u32,
    ) {
        let OwedGang {
            member,
            role,
            waiting,
            ..
        } = retaking.owed;
        let state = retaking.taking.state;
        for room in retaking.rooms.values_mut() {
            if room.admits(shape) && !self.declines(*member, room.agent, &shape.request) {
                room.place(part, &shape.request, missing);
            }
        }
        while *missing > 0 {
            let rooms = &retaking.rooms;
            let found = self.agents.find(shape, role, false, |agent| {
                let is_new = !rooms.contains_key(&agent) && self.backfill_on(agent).is_none();
                let free = is_new.then(|| self.free_for(state, *member, waiting, agent, shape));
                free.flatten().map(|free| (agent, free))
            });
            let Some((agent, free)) = found else {
                return;
            };
            let Some(record) = state.agent(agent) else {
                return;
            };
            let free = free.flat(false).into_owned();
            let mut room = Room::new(&retaking.taking, (agent, &record.info), free, Vec::new());
            room.place(part, &shape.request, missing);
            retaking.rooms.insert(agent, room);
        }
    }

    /// Places the rest of a part where tasks end for it; none if not all of it can be.
    fn place_by_end(
        &self,
        retaking: &mut Retaking<'_, '_>,
        part: u32,
        shape: &Shape,
        missing: &mut u32,
    ) -> Option<()> {
        if *missing == 0 {
            return Some(());
        }
        let member = retaking.owed.member;
        let rooms = retaking.rooms.values();
        let rooms = rooms.filter(|room| {
            room.admits(shape) && !self.declines(member, room.agent, &shape.request)
        });
        let agents: Vec<AgentId> = rooms.map(|room| room.agent).collect();
        let mut queue = BTreeSet::new();
        for agent in agents {
            queue.extend(retaking.cost_of(agent, &shape.request));
        }
        while *missing > 0 {
            let cheapest: Cost = queue.pop_first()?;
            // What was taken elsewhere meanwhile may have made it dearer.
            let Some(cost) = retaking.cost_of(cheapest.agent, &shape.request) else {
                continue;
            };
            if cost > cheapest {
                queue.insert(cost);
                continue;
            }
            retaking.end_on(cost.agent, part, &shape.request, missing)?;
            queue.extend(retaking.cost_of(cost.agent, &shape.request));
        }
        Some(())
    }
}

impl Retaking<'_, '_> {
    /// What one more task on an agent costs.
    fn cost_of(&mut self, agent: AgentId, request: &ResourceRequest) -> Option<Cost> {
        self.looks = self.looks.checked_sub(1)?;
        let (cost, _) = self
            .rooms
            .get(&agent)?
            .more_victims(&self.taking, request)?;
        Some(cost)
    }

    /// Ends what must for one more task on an agent; none if that is more than may end.
    fn end_on(
        &mut self,
        agent: AgentId,
        part: u32,
        request: &ResourceRequest,
        missing: &mut u32,
    ) -> Option<()> {
        let room = self.rooms.get_mut(&agent)?;
        let (_, victims) = room.more_victims(&self.taking, request)?;
        self.left = self.left.checked_sub(victims.len())?;
        room.end(&mut self.taking, victims);
        room.place(part, request, missing);
        Some(())
    }

    /// What is planned; nothing if nobody has to end for it, or there are too many places.
    fn wish(self, gang: &Gang) -> Option<Preemption> {
        let rooms = self.rooms.into_values();
        let places = rooms.filter(|room| !room.parts.is_empty()).map(|room| {
            let victims = room.victims.iter().map(|task| task.id.clone());
            Some(Place {
                agent: room.agent,
                request: gang.sum(&room.parts)?,
                victims: victims.collect(),
                parts: room.parts,
            })
        });
        let places: Vec<Place> = places.collect::<Option<_>>()?;
        let waits = places.iter().any(|place| !place.victims.is_empty());
        let claims = self.taking.state.claims().count();
        (waits && claims + places.len() <= limits::CLAIMS).then(|| Preemption {
            role: self.owed.role.clone(),
            guaranteed: self.owed.guaranteed.clone(),
            gang: Some((
                self.owed.member.framework,
                self.owed.waiting.key.to_string(),
            )),
            places,
        })
    }
}

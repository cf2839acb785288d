//! Jobs whose tasks start together: launched by one operation, or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use tepui_sdk::{Context, Error, GangLaunch, GangShare, Launch, Offer, TaskSpec};

use crate::budget::Budget;
use crate::{Batch, placement, tasks};

impl Batch {
    /// Launches each gang of which all is offered, and gives back the rest.
    pub(crate) fn place_gangs(
        &mut self,
        cx: &mut Context<'_>,
        offers: &[&Offer],
        now: u64,
        budget: &mut Budget,
    ) {
        let mut gangs: BTreeMap<&str, Vec<(&Offer, &GangShare)>> = BTreeMap::new();
        for offer in offers {
            if let Some(share) = &offer.gang {
                gangs.entry(&share.key).or_default().push((offer, share));
            }
        }
        for (job, shares) in gangs {
            let launched = self.launch_gang(cx, job, &shares, now, budget);
            if let Err(error) = &launched {
                match error {
                    Error::TurnFull => budget.exhaust(),
                    Error::OfferUnknown => {}
                    error => cx.error(&format!("failed to launch the gang {job}: {error}")),
                }
            }
            let ids: Vec<_> = shares.iter().map(|(offer, _)| offer.id).collect();
            // What there was no room for in this turn is wanted at once.
            let soon = launched == Ok(true) || budget.refused();
            if let Err(error) = cx.decline(&ids, soon.then_some(Duration::ZERO)) {
                cx.debug(&format!("offers of {job} were not declined: {error}"));
            }
        }
    }

    /// Launches a gang, if all of it is offered and still wanted.
    fn launch_gang(
        &mut self,
        cx: &mut Context<'_>,
        name: &str,
        shares: &[(&Offer, &GangShare)],
        now: u64,
        budget: &mut Budget,
    ) -> Result<bool, Error> {
        let Some(job) = self.jobs.get(name) else {
            return Ok(false);
        };
        let (count, spec_bytes) = (job.terms.count, job.terms.spec_bytes as usize);
        let gang = job.gang(now);
        let is_whole = gang.is_some_and(|gang| gang.is_whole(shares.iter().map(|(_, it)| *it)));
        let bytes = spec_bytes + count as usize * placement::LAUNCH_BYTES;
        if !is_whole || !budget.take(count as usize, bytes) {
            return Ok(false);
        }
        let indices = job.candidates(now, count);
        let mut next = indices.iter();
        let mut launches = Vec::new();
        for (offer, share) in shares {
            let mut left = offer.resources.clone();
            let mut launched = Vec::new();
            for _ in 0..share.parts.iter().map(|(_, count)| *count).sum() {
                let (Ok(resources), Some(index)) = (left.pick(&job.terms.request), next.next())
                else {
                    return Ok(false);
                };
                left = left.saturating_sub(&resources);
                launched.push(Launch {
                    name: tasks::task_name(name, count, *index),
                    resources,
                    array_index: (count > 1).then_some(*index),
                });
            }
            launches.push(GangLaunch {
                offer: offer.id,
                spec: 0,
                tasks: launched,
            });
        }
        let spec = TaskSpec::clone(&self.spec(cx, name));
        let ids = cx.launch_gang(&[spec], &launches)?;
        if let Some(job) = self.jobs.get_mut(name) {
            for (index, id) in indices.into_iter().zip(ids) {
                job.launched(index, id.attempt);
            }
        }
        self.touched.insert(name.to_owned());
        Ok(true)
    }
}

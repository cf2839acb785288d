//! The interface `operations`: what a guest does with an offer's resources.

use std::ops::Bound;

use tepui_cluster::state::conversions::ConversionRecord;
use tepui_types::{OfferId, OperationId, Principal};

use super::super::bindings::{cluster, operations, types};
use super::super::turn::CallError;
use super::super::{convert, limits};
use super::HostState;

impl operations::Host for HostState {
    fn left(&mut self, offers: Vec<u64>) -> Vec<Option<operations::Remainder>> {
        let turn = self.turn();
        let offers = offers.into_iter().map(|offer| turn.left(OfferId(offer)));
        offers.map(|left| left.map(convert::left_out)).collect()
    }

    fn accept_special(
        &mut self,
        offer: u64,
        spec: types::TaskSpec,
        tasks: Vec<(cluster::TaskLaunch, operations::Special)>,
    ) -> Result<Vec<types::TaskId>, cluster::CallError> {
        let spec = convert::spec_in(spec).map_err(CallError::Invalid)?;
        let tasks = tasks.into_iter().map(|(task, special)| {
            let mut launch = convert::launch_in(task)?;
            launch.special = convert::special_in(special)?;
            Ok(launch)
        });
        let tasks: Result<Vec<_>, String> = tasks.collect();
        let tasks = tasks.map_err(CallError::Invalid)?;
        let ids = self.turn().accept(OfferId(offer), spec, tasks)?;
        Ok(ids.iter().map(convert::task_id_out).collect())
    }

    fn operate(
        &mut self,
        offer: u64,
        name: String,
        operation: operations::Operation,
    ) -> Result<(), cluster::CallError> {
        let offer = OfferId(offer);
        let role = self.turn().offer(offer).map(|offer| offer.role.clone());
        let role = role.ok_or(CallError::OfferUnknown)?;
        let wish = convert::wish_in(operation, role).map_err(CallError::Invalid)?;
        Ok(self.turn().operate(offer, name, &wish)?)
    }

    fn operations(
        &mut self,
        after: Option<String>,
        limit: u32,
    ) -> Vec<operations::OperationStatus> {
        let turn = self.turn();
        let from = match after.map(|after| after.parse::<OperationId>()) {
            None => Bound::Unbounded,
            Some(Ok(after)) => Bound::Excluded(after),
            // What is no id comes after none.
            Some(Err(_)) => return Vec::new(),
        };
        let own = Principal::Framework(turn.framework().id);
        let records = turn.state().conversions.range((from, Bound::Unbounded));
        let records = records.map(|(_, record)| record);
        let own = records.filter(|record| record.by == own);
        let own = own.take(limit.min(limits::PAGE) as usize);
        own.map(|record| status_out(record)).collect()
    }
}

fn status_out(record: &ConversionRecord) -> operations::OperationStatus {
    operations::OperationStatus {
        id: record.id.to_string(),
        name: record.name.clone(),
        agent: record.agent.0,
        kind: record.conversion.name().into(),
        state: record.state.as_str().into(),
        reason: record.reason.as_ref().map(convert::reason_out),
        time_ms: record.time.0,
    }
}

//! The replicas' memory and their counters.

use crate::cluster::Cluster;
use crate::metrics::Metrics;
use crate::wait::{SOON, try_wait_for};
use std::ops::Sub;

/// The largest resident memory that each replica has had.
#[derive(Clone, Debug)]
pub struct Memory(pub Vec<u64>);

impl Memory {
    /// The memory that the replicas have now.
    pub fn now(cluster: &Cluster, names: &[&str]) -> Memory {
        Memory(names.iter().map(|name| cluster.usage(name).resident).collect())
    }

    /// The peak since each replica was started, between two looks as well.
    pub fn peak(cluster: &Cluster, names: &[&str]) -> Memory {
        Memory(names.iter().map(|name| cluster.usage(name).resident_peak).collect())
    }

    /// Takes the larger of both.
    pub fn raise(&mut self, other: &Memory) {
        self.0.iter_mut().zip(&other.0).for_each(|(most, other)| *most = (*most).max(*other));
    }

    /// By how much the replica that has grown the most has grown, in MiB.
    pub fn grown_mib(&self, idle: &Memory) -> u64 {
        self.0.iter().zip(&idle.0).map(|(most, idle)| most.saturating_sub(*idle) >> 20).max().unwrap_or_default()
    }
}

/// The counters of all replicas together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub rejoins: u64,
    pub repairs: u64,
    pub refusals: u64,
    /// Comparisons that found different states under equal logs.
    pub states_differ: u64,
}

impl Sub for Counted {
    type Output = Counted;

    fn sub(self, before: Counted) -> Counted {
        Counted {
            rejoins: self.rejoins - before.rejoins,
            repairs: self.repairs - before.repairs,
            refusals: self.refusals - before.refusals,
            states_differ: self.states_differ - before.states_differ,
        }
    }
}

impl Counted {
    /// The counters in the replicas' metrics.
    ///
    /// # Errors
    /// A replica does not give its metrics.
    pub fn now(cluster: &Cluster, names: &[&str]) -> Result<Counted, String> {
        let mut counted = Counted::default();
        for name in names {
            let metrics = metrics(cluster, name)?;
            counted.rejoins += metrics.sum("stablechat_rejoins_total") as u64;
            counted.repairs += metrics.sum("stablechat_repairs_total") as u64;
            counted.refusals += metrics.sum("stablechat_refusals_total") as u64;
            counted.states_differ += metrics.get("stablechat_comparisons_total{result=\"states_differ\"}") as u64;
        }
        Ok(counted)
    }
}

/// A replica's metrics. They may be late, since an attack on the monitoring port may take all its connections.
fn metrics(cluster: &Cluster, name: &str) -> Result<Metrics, String> {
    let page = try_wait_for(SOON, || match cluster.try_page(name, "/metrics") {
        Some((200, page)) => Some(page),
        _ => None,
    });
    page.map(|page| Metrics::parse(&page)).ok_or_else(|| format!("replica {name} gives no metrics within {SOON:?}"))
}

//! The metrics of running replicas, for tests that go by what a replica counts.

use crate::cluster::Cluster;
use std::collections::BTreeMap;

/// A replica's metrics: the values by name, with the labels as they are on the page.
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Scrapes a running replica.
    ///
    /// # Panics
    /// It does not answer within [`crate::wait::SOON`].
    pub fn of(cluster: &Cluster, name: &str) -> Metrics {
        let (status, text) = cluster.page(name, "/metrics");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// Reads a page of metrics.
    pub fn parse(page: &str) -> Metrics {
        let values = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_string(), value.parse().expect("a number"))
        });
        Metrics(values.collect())
    }

    /// One value, by its name with labels.
    pub fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("there is no {name} in {:?}", self.0.keys()))
    }

    /// The sum of all values of a metric, over its labels.
    pub fn sum(&self, metric: &str) -> f64 {
        let of_metric = self.0.iter().filter(|(name, _)| name.split('{').next() == Some(metric));
        of_metric.map(|(_, value)| value).sum()
    }
}

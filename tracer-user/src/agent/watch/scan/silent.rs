//! What a program seems to do while it fails: a coarser word than the class, for alerts.

use crate::agent::picture::SILENT_FAILURE_TYPES;

/// The type of a class; what a user's own rules call otherwise is blocked.
pub(super) fn silent_failure_type(class: &str) -> &'static str {
    let [blocked_forever, deadlock, livelock, starvation, resource_held, growth] = SILENT_FAILURE_TYPES;
    match class {
        "lock-order-cycle" | "lock-channel-mixed" => deadlock,
        "pseudo-idle-spin" | "spurious-wakeups" | "never-yields" => livelock,
        "starved" => starvation,
        "connection-never-closed" | "context-never-cancelled" | "timer-never-stopped" | "sdk-resident" => {
            resource_held
        }
        "growing-site" => growth,
        _ => blocked_forever,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sfgi_core::detect::Rules;

    #[test]
    fn every_type_is_one_of_some_class_of_the_catalogue() {
        let rules = Rules::built_in().unwrap();
        let found: Vec<_> = rules.iter().map(|rule| silent_failure_type(&rule.class)).collect();
        for name in SILENT_FAILURE_TYPES {
            assert!(found.contains(&name), "{name}");
        }
    }
}

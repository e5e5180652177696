//! Which rule fits a process.

use crate::agent::{
    picture::Identity,
    settings::{Matcher, ProcessRule, Settings},
};
use regex::Regex;
use sfgi_core::event::Mode;
use std::{sync::Arc, time::Duration};

/// What is to be done with a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) exclude: bool,
    pub(super) mode: Mode,
    pub(super) service: Option<Arc<str>>,
    pub(super) interval: Duration,
    /// Whether findings raise the mode.
    pub(super) raise: bool,
}

impl Plan {
    /// By the first rule that fits.
    pub(super) fn of(identity: &Identity, settings: &Settings) -> Plan {
        let rule = settings.rules.iter().find(|rule| rule.when.fits(identity));
        let of_rule = |get: fn(&ProcessRule) -> Option<Duration>| rule.and_then(get);
        Plan {
            exclude: rule.is_some_and(|rule| rule.exclude),
            mode: rule.and_then(|rule| rule.mode).unwrap_or(settings.mode),
            service: rule.and_then(|rule| rule.service.clone()),
            interval: of_rule(|rule| rule.interval).unwrap_or(settings.interval),
            raise: rule.and_then(|rule| rule.raise).unwrap_or(settings.raise.on_finding),
        }
    }
}

impl Matcher {
    /// Whether everything that is asked holds.
    pub fn fits(&self, identity: &Identity) -> bool {
        let one = |asked: &Option<Regex>, told: Option<&str>| {
            asked.as_ref().is_none_or(|regex| told.is_some_and(|told| regex.is_match(told)))
        };
        let module = self.module.as_ref().is_none_or(|regex| {
            [&identity.package, &identity.module].iter().any(|name| !name.is_empty() && regex.is_match(name))
        });
        let pod = identity.pod.as_ref().map(|pod| match (&pod.namespace, &pod.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => pod.uid.clone(),
        });
        one(&self.exe, Some(&identity.exe.to_string_lossy()))
            && module
            && one(&self.unit, identity.unit.as_deref())
            && one(&self.container, identity.container.as_deref())
            && one(&self.pod, pod.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::picture::Pod;
    use sfgi_core::detect::Rules;

    fn regex(text: &str) -> Option<Regex> {
        Some(Regex::new(text).unwrap())
    }

    #[test]
    fn the_first_rule_that_fits_holds() {
        let mut settings = Settings::new(Arc::new(Rules::built_in().unwrap()));
        let when = |module| Matcher { module: regex(module), ..Matcher::default() };
        settings.rules = vec![
            ProcessRule {
                when: when("^shop/cart$"),
                mode: Some(Mode::Wait),
                raise: Some(false),
                ..ProcessRule::default()
            },
            ProcessRule { when: when("^shop"), exclude: true, ..ProcessRule::default() },
        ];
        let identity = |package: &str| Identity { package: package.to_owned(), ..Identity::default() };
        let plan = |package| Plan::of(&identity(package), &settings);
        assert_eq!((plan("shop/cart").mode, plan("shop/cart").exclude), (Mode::Wait, false));
        assert!(!plan("shop/cart").raise && plan("other").raise);
        assert!(plan("shop/pay").exclude);
        assert_eq!((plan("other").mode, plan("other").exclude), (Mode::Poll, false));
    }

    #[test]
    fn everything_that_is_asked_must_hold() {
        let pod =
            Pod { uid: "u".into(), name: Some("n".into()), namespace: Some("s".into()), ..Pod::default() };
        let identity = Identity { exe: "/bin/a".into(), pod: Some(pod), ..Identity::default() };
        let matcher = |exe, pod, unit| Matcher { exe, pod, unit, ..Matcher::default() };
        assert!(matcher(regex("^/bin/"), regex("^s/n$"), None).fits(&identity));
        assert!(!matcher(regex("^/bin/"), regex("^u$"), None).fits(&identity));
        assert!(!matcher(regex("^/bin/"), None, regex("")).fits(&identity));
    }
}

//! `GODEBUG`: settings that give a program the behaviour of an older release (`src/internal/godebug`, since Go 1.21).
//!
//! The go command writes what the `go` line of the main module's `go.mod` and lines `//go:debug` ask for into the build
//! setting `DefaultGODEBUG` (`src/cmd/go/internal/load/godebug.go`); the environment comes before that. What a program sets
//! itself with `os.Setenv` is not seen here.

use super::Release;

/// Settings by name, `name=value,name=value`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Godebug<'t> {
    /// The build setting `DefaultGODEBUG`.
    pub default: &'t str,
    /// The variable `GODEBUG` of the environment.
    pub environment: &'t str,
}

impl<'t> Godebug<'t> {
    /// The value of a setting. In either text the last one counts (`src/internal/godebug/godebug.go: parse`).
    pub fn get(&self, name: &str) -> Option<&'t str> {
        let of = |text: &'t str| {
            let values = text.rsplit(',').filter_map(|one| one.trim().split_once('='));
            values.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        of(self.environment).or_else(|| of(self.default))
    }
}

impl Release {
    /// Whether a channel of a timer is like any other, with nothing in it that tells: up to Go 1.22, and up to 1.26 with
    /// `asynctimerchan=1`, with which package time does not tell the runtime of the channel (`src/time/sleep.go:
    /// syncTimer`). With 2 it does, and only sends as before. Go 1.27 has no such setting any more,
    /// and a program that is started with 1 or 2 ends at once (`src/internal/godebugs/table.go: Removed`).
    pub fn hides_timers_of_channels(self, godebug: &Godebug<'_>) -> bool {
        !self.channels_know_their_timer()
            || self.has_asynctimerchan() && godebug.get("asynctimerchan") == Some("1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_comes_first_and_the_last_of_a_text_counts() {
        let godebug = Godebug { default: "a=1,b=2,a=3", environment: "b=4, c=5,,d" };
        let got = ["a", "b", "c", "d", "e"].map(|name| godebug.get(name));
        assert_eq!(got, [Some("3"), Some("4"), Some("5"), None, None]);
        assert_eq!(Godebug::default().get(""), None);
    }

    #[test]
    fn channels_of_timers_by_release_and_setting() {
        let hides = |minor, default, environment| {
            Release::new(minor).hides_timers_of_channels(&Godebug { default, environment })
        };
        assert!(hides(22, "", "") && hides(19, "asynctimerchan=0", ""));
        assert!(!hides(23, "", "") && !hides(26, "panicnil=1", ""));
        // Built with 1.26 by a go.mod that says 1.22.
        assert!(hides(26, "panicnil=1,asynctimerchan=1", ""));
        assert!(!hides(26, "asynctimerchan=1", "asynctimerchan=0"), "the environment says otherwise");
        assert!(hides(24, "", "gctrace=1,asynctimerchan=1") && !hides(24, "", "asynctimerchan=2"));
        assert!(!hides(27, "", "asynctimerchan=1"), "1.27 does not know it");
    }
}

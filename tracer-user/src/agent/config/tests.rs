use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn parse(text: &str) -> Result<Config, String> {
    let config = Config::parse(Path::new("sfgi.toml"), text).and_then(Config::complete);
    config.map_err(|error| error.to_string())
}

const EXAMPLE: &str = include_str!("../../../../deploy/sfgi.toml");

/// `deploy/sfgi.toml` documents the defaults: it must mean the same as no file.
#[test]
fn the_example_is_what_holds_by_itself() {
    let example = parse(EXAMPLE).unwrap();
    let default = Config { budget: Budget { process: Some(0.02), ..Budget::default() }, ..Config::default() };
    assert_eq!(example, default);
}

/// The examples in the comments of `deploy/sfgi.toml` must parse when they are uncommented.
#[test]
fn its_examples_can_be_uncommented() {
    let uncommented =
        EXAMPLE.replace("\n# [", "\n[").replace("\n# token", "\ntoken").replace("\n# tls", "\ntls");
    let keys = [
        "exe", "unit", "match", "service", "mode", "interval", "name", "warn", "command", "timeout", "user",
        "endpoint",
    ];
    let keys = keys
        .iter()
        .fold(uncommented, |text, key| text.replace(&format!("\n# {key} = "), &format!("\n{key} = ")));
    let config = parse(&keys).unwrap();
    assert_eq!(config.rule[0].service.as_deref(), Some("shop"));
    assert_eq!(config.alerts.service[0].warn.as_ref().unwrap().count, Some(5000));
    assert_eq!(config.otlp.unwrap().endpoint, "http://localhost:4318");
    assert!(config.alerts.hook.is_some() && config.http.tls.is_some() && config.exclude[0].unit.is_some());
}

#[test]
fn an_unknown_key_is_said_with_its_line_and_what_may_be_meant() {
    let error = |text| parse(text).unwrap_err();
    assert_eq!(
        error("[scan]\nmode = \"poll\"\nintervall = \"1s\"\n"),
        "sfgi.toml, line 3: there is no key `intervall` here: did you mean `interval`?"
    );
    assert!(error("[scann]\n").ends_with("line 1: there is no key `scann` here: did you mean `scan`?"));
    assert!(error("[scan]\nmode = \"ful\"").ends_with("there is no value `ful` here: did you mean `full`?"));
    assert!(error("[alerts.warn]\nqqq = 1").contains("line 2: there is no key `qqq` here, only count, "));
    assert!(error("[alerts]\n[alerts.wran]\ncount = 1").contains("did you mean `warn`?"));
    assert!(error("[scan]\ninterval = 30").starts_with("sfgi.toml, line 2: "));
    assert!(error("[scan]\ninterval = \"30\"").contains("line 2: 30: a time needs a unit"));
    assert!(error("[scan").starts_with("sfgi.toml, line 1: "));
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    for (text, word) in [
        ("[scan]\ninterval = \"10ms\"", "scan.interval"),
        ("[budget]\nnode = \"0%\"", "budget.node"),
        ("[budget]\nnode = \"1%\"\nprocess = \"2%\"", "budget.process"),
        ("[alerts.observe]\ncount = 1000", "alerts.observe.count"),
        ("[alerts.hook]\ncommand = []", "alerts.hook.command"),
        ("[alerts.hook]\ncommand = [\"true\"]\nuser = \"no such user\"", "alerts.hook.user"),
        ("[http]\nlisten = []", "http.listen is empty"),
        ("[http]\nlisten = \"unix:sfgi.sock\"", "line 2: \"unix:sfgi.sock\" is no address"),
        ("[http]\nlisten = [\"127.0.0.1\"]", "line 2: \"127.0.0.1\" is no address"),
        ("[[rule]]\nmode = \"full\"", "nothing in particular"),
        ("[[exclude]]\nunit = \"(\"", "line 2: \"(\" is no regular expression: unclosed group"),
        ("[[rule]]\nmatch = { exe = \"*shop\" }", "line 2: \"*shop\" is no regular expression: "),
        ("[[include]]\nexe = \"*/shop\"", "for anything at all write .*"),
        ("[[include]]\npod = \"(a{999}){999}\"", "line 2: "),
        ("[otlp]\nendpoint = \"localhost\"", "otlp.endpoint"),
        ("[otlp]\nendpoint = \"http://localhost\"\ninterval = \"0s\"", "otlp.interval"),
        ("[leaks]\nrules = \"/does/not/exist\"", "leaks.rules"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn one_address_is_given_as_such_and_several_as_a_list() {
    let listen = |text: &str| parse(text).unwrap().http.listen;
    let (tcp, unix) = ("127.0.0.1:7".parse().unwrap(), Address::Unix("/run/a.sock".into()));
    assert_eq!(listen("[http]\nlisten = \"127.0.0.1:7\""), [Address::Tcp(tcp)]);
    assert_eq!(
        listen("[http]\nlisten = [\"127.0.0.1:7\", \"unix:/run/a.sock\"]"),
        [Address::Tcp(tcp), unix.clone()]
    );
    assert_eq!(unix.to_string().parse(), Ok(unix));
}

#[test]
fn overrides_are_stronger_than_the_file() {
    let mut config = parse("[scan]\ninterval = \"5s\"\n[[include]]\nunit = \"a\"").unwrap();
    let overrides = Overrides {
        interval: Some(Duration::from_secs(7)),
        include: vec!["^/srv/".parse().unwrap()],
        ..Overrides::default()
    };
    overrides.put_over(&mut config);
    assert_eq!(config.scan.interval, Duration::from_secs(7));
    let srv: Option<Pattern> = Some("^/srv/".parse().unwrap());
    let exe = Matching { exe: srv.clone(), ..Matching::default() };
    assert_eq!(config.include, [exe, Matching { module: srv, ..Matching::default() }]);
}

#[test]
fn a_reload_says_what_needs_a_restart() {
    let old = Config::default();
    assert_eq!(changes(&old, &old).to_string(), "nothing has changed");
    let new =
        parse("[http]\nlisten = \"127.0.0.1:7\"\n[alerts]\nfor = \"1s\"\n[scan]\nmode = \"life\"").unwrap();
    let reload = changes(&old, &new);
    assert_eq!(reload.parts, [Part::Core, Part::Alerts]);
    assert_eq!(reload.to_string(), "changed: core, alerts; restart sfgi for http.listen");
}

#[test]
fn a_file_as_large_as_may_be_takes_no_time() {
    let many = |section: &str, line: &str| format!("[[{section}]]\n{line}\n").repeat(30_000);
    for (text, word) in [
        (many("exclude", "exe = \"a{99}\""), "more than 256"),
        (many("rule", "match = { exe = \"[a-z]\" }"), "more than 256"),
        (many("alerts.service", "name = \"?*\""), "more than 256"),
        (format!("scan = {}", "[".repeat(MAX_FILE as usize / 2)), "line 1"),
        (format!("{} = 1", "a.".repeat(MAX_FILE as usize / 4) + "a"), "line 1"),
        ("[scan".repeat(100_000), "line 1"),
    ] {
        let began = std::time::Instant::now();
        let error = parse(&text).unwrap_err();
        assert!(error.contains(word) && error.len() < 1000, "{error:.200}");
        assert!(began.elapsed() < Duration::from_secs(10), "{word}: {:?}", began.elapsed());
    }
}

proptest! {
    /// Bytes of the example replaced, taken out and doubled: a configuration, or one clear line.
    #[test]
    fn no_text_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_usize..40), 1..30)
    ) {
        let uncommented = EXAMPLE.replace("\n# ", "\n");
        let mut text = uncommented.into_bytes();
        for (at, byte, len) in changes {
            let at = at.index(text.len());
            let end = (at + len).min(text.len());
            match byte % 3 {
                0 => drop(text.splice(at..end, [byte])),
                1 => {
                    let copy = text[at..end].to_vec();
                    drop(text.splice(at..at, copy));
                }
                _ => text[at] = byte,
            }
        }
        if let Err(error) = parse(&String::from_utf8_lossy(&text)) {
            prop_assert!(error.len() < 2000, "{error}");
            prop_assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}

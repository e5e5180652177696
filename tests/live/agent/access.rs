//! Who may ask `sfgi agent` for what, by which way, and with what.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixStream,
    },
    path::Path,
    process::Command,
};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::{self, AUTHORIZATION, Agent, Answer, LONGEST, TOKEN, TOKEN_VARIABLE, answer, ask},
    fixture::{self, Variant},
    machine,
    process::Process,
    screen::Terminal,
    sfgi::{self, fails},
    toolchain::{self, Go},
};
use rustix::process::Signal;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(without_the_token_nothing_is_told_and_nothing_is_done).quick(),
        live(a_page_of_another_site_is_refused_whatever_it_brings),
        live(who_starts_it_on_a_terminal_is_given_an_address).needs(Need::Program("tmux")),
        live(a_unix_socket_needs_no_token_and_is_for_its_group),
        live(clients_with_a_certificate_need_no_token).needs(Need::Program("openssl")),
        live(files_are_for_their_owner_and_no_link_is_followed),
    ]
}

/// An agent that nobody has given a token.
fn without_token(args: &[&str]) -> Result<Command> {
    let mut command = agent_http::command(args)?;
    command.env_remove(TOKEN_VARIABLE);
    Ok(command)
}

fn without_the_token_nothing_is_told_and_nothing_is_done() -> Result<()> {
    let target = fixture::start_own("idle", &Go::newest(), Variant::Plain, &["-n", "40"])?;
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("state/history");
    let exe = fs::read_link(format!("/proc/{}/exe", target.pid()))?;
    let agent = Agent::of(&mut without_token(&[
        "--store",
        &store.to_string_lossy(),
        "--include",
        &format!("^{}$", exe.display()),
    ])?)?;
    let file = directory.path().join("state/token");
    ensure!(fs::metadata(&file)?.mode() & 0o777 == 0o600, "{:o}", fs::metadata(&file)?.mode());
    ensure!(agent.token.as_deref() == Some(fs::read_to_string(&file)?.trim()), "{:?}", agent.token);
    let pid = target.pid();
    agent.until(&format!("/sfgi/processes?pid={pid}"), |document| document[0]["goroutines"].is_u64())?;

    let trace = format!("/sfgi/trace?pid={pid}&seconds=1");
    let paths = [
        ("GET", "/sfgi/processes".to_owned()),
        ("GET", format!("/sfgi/goroutines?pid={pid}")),
        ("GET", format!("/debug/pprof/block?pid={pid}&seconds=1")),
        ("GET", trace.clone()),
        ("POST", trace.clone()),
        ("POST", format!("/sfgi/mode?pid={pid}&mode=full")),
        ("POST", "/sfgi/trigger-scan".to_owned()),
        ("GET", "/openapi.json".to_owned()),
        ("GET", format!("/sfgi/processes?token={}", agent.token.as_deref().unwrap_or_default())),
    ];
    for (method, path) in &paths {
        let refused = ask(agent.address, method, path, &[])?;
        ensure!(refused.status == 401, "{method} {path}: {} {}", refused.status, refused.text());
        ensure!(!refused.text().contains("idle"), "{}", refused.text());
        ensure!(refused.text().contains(&*file.to_string_lossy()), "{}", refused.text());
    }
    ensure!(machine::bpf_objects_of(agent.process.pid())?.is_empty(), "it has put probes");
    for path in ["/metrics", "/healthz", "/readyz", "/", "/page.css", "/page.js"] {
        let open = ask(agent.address, "GET", path, &[])?;
        ensure!(open.status == 200, "{path}: {} {}", open.status, open.text());
    }
    // What probes is no GET, also for who may.
    ensure!(agent.get(&trace)?.status == 405);
    let traced = agent.post(&trace)?;
    ensure!(traced.status == 200, "{} {}", traced.status, traced.text());
    Ok(())
}

/// An answer to a request that is written byte by byte.
fn raw(agent: &Agent, request: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(agent.address)?;
    stream.set_read_timeout(Some(LONGEST))?;
    stream.write_all(request.as_bytes())?;
    answer(&mut stream).with_context(|| request.to_owned())
}

fn a_page_of_another_site_is_refused_whatever_it_brings() -> Result<()> {
    let agent = Agent::start(&["--include", "^/nothing$"])?;
    let asks = |path: &str, more: &str| {
        raw(&agent, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\r\n"))
    };
    for path in ["/sfgi/processes", "/metrics"] {
        let plain = asks(path, AUTHORIZATION)?;
        ensure!(plain.status == 200, "{path}: {}", plain.status);
        for from in [
            "sec-fetch-site: cross-site\r\n",
            "sec-fetch-site: same-site\r\n",
            "origin: http://evil.example\r\n",
            "origin: null\r\n",
        ] {
            for token in ["", AUTHORIZATION] {
                let refused = asks(path, &format!("{from}{token}"))?;
                ensure!(refused.status == 403, "{path} {from}: {} {}", refused.status, refused.text());
            }
        }
    }
    let rebound = raw(&agent, "GET /metrics HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")?;
    ensure!(rebound.status == 421, "{} {}", rebound.status, rebound.text());
    for path in ["/", "/metrics", "/sfgi/processes"] {
        let twice = asks(path, &format!("host: evil.example\r\n{AUTHORIZATION}"))?;
        ensure!(twice.status == 400 && twice.text().contains("Host"), "{path}: {}", twice.text());
    }
    ensure!(!agent.process.stderr.text().contains("panicked"), "{}", agent.process.stderr.text());
    Ok(())
}

fn who_starts_it_on_a_terminal_is_given_an_address() -> Result<()> {
    let terminal = Terminal::new("address", (200, 40))?;
    let sfgi = sfgi::binary()?;
    terminal.type_in(&format!("{} agent --listen 127.0.0.1:0 --include '^/nothing$'", sfgi.display()))?;
    terminal.press(&["Enter"])?;
    let screen = terminal.wait_for(LONGEST, "an address", |screen| screen.contains("/?token="))?;
    let line = screen.lines().find(|line| line.contains("/?token=")).context("no address")?;
    let (address, token) =
        line.trim().trim_start_matches("http://").split_once("/?token=").context("none")?;
    let address = address.parse()?;
    let shown = format!("Bearer {}", token.trim());
    ensure!(ask(address, "GET", "/sfgi/node", &[("authorization", &shown)])?.status == 200, "{line}");
    ensure!(ask(address, "GET", "/sfgi/node", &[])?.status == 401);
    terminal.press(&["C-c"])?;
    Ok(())
}

/// One request by a Unix socket.
fn by_socket(path: &Path, request: &str) -> Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(LONGEST))?;
    write!(stream, "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    answer(&mut stream)
}

fn a_unix_socket_needs_no_token_and_is_for_its_group() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("run/sfgi.sock");
    let address = format!("unix:{}", socket.display());
    let both = ["--listen", "127.0.0.1:0", "--listen", &address, "--include", "^/nothing$"];
    let mut agent = Agent::start(&both)?;
    let meta = fs::metadata(&socket)?;
    ensure!(meta.mode() & 0o777 == 0o660, "{:o}", meta.mode());
    ensure!(fs::metadata(directory.path().join("run"))?.mode() & 0o777 == 0o755);
    ensure!(by_socket(&socket, "GET /sfgi/node")?.status == 200);
    ensure!(by_socket(&socket, "POST /sfgi/mode?pid=1")?.status == 404);
    ensure!(ask(agent.address, "GET", "/sfgi/node", &[])?.status == 401);
    // Two of them, or none: the second does not take the first one's place.
    let only = ["--listen", address.as_str(), "--include", "^/nothing$"];
    fails(&mut without_token(&only)?, 1, &["somebody listens there already"])?;
    ensure!(by_socket(&socket, "GET /sfgi/node")?.status == 200);
    // What was left behind is replaced.
    agent.process.signal(Signal::KILL)?;
    agent.process.wait(LONGEST)?;
    ensure!(socket.exists());
    let again = Process::spawn(&mut without_token(&only)?)?;
    again.stderr.wait_for(LONGEST, |line| line.contains("begins: PID"))?;
    ensure!(by_socket(&socket, "GET /sfgi/node")?.status == 200);
    // No token is made that nobody needs.
    ensure!(!again.stderr.text().contains("token"), "{}", again.stderr.text());
    let mut again = again;
    again.signal(Signal::TERM)?;
    again.wait_code(LONGEST, 0)?;
    ensure!(!socket.exists(), "the socket stays");
    // A file that is no socket is nothing to replace.
    fs::write(&socket, "mine")?;
    fails(&mut without_token(&only)?, 1, &["no socket"])?;
    ensure!(fs::read_to_string(&socket)? == "mine");
    Ok(())
}

fn clients_with_a_certificate_need_no_token() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let openssl = |words: &[&str]| toolchain::output(Command::new("openssl").args(words)).map(drop);
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let make = |name: &str, subject: &str, more: &[&str]| {
        let (out_key, out) = (path(&format!("{name}.key")), path(&format!("{name}.pem")));
        let words =
            [&["req", "-x509", "-days", "1", "-subj", subject, "-keyout", &out_key, "-out", &out][..]];
        openssl(&[&words.concat(), &key[..], more].concat())
    };
    make("ca", "/CN=ours", &[])?;
    make("other", "/CN=theirs", &[])?;
    make("server", "/CN=localhost", &["-addext", "subjectAltName=DNS:localhost"])?;
    for (name, signer) in [("client", "ca"), ("stranger", "other")] {
        let (signer_file, signer_key) = (path(&format!("{signer}.pem")), path(&format!("{signer}.key")));
        make(
            name,
            "/CN=client",
            &["-CA", &signer_file, "-CAkey", &signer_key, "-addext", "basicConstraints=critical,CA:FALSE"],
        )?;
    }
    let config = path("sfgi.toml");
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\ntls = {{ certificate = \"{}\", key = \"{}\", client_ca = \"{}\" }}\n\
         [[include]]\nexe = '^/nothing$'\n",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    );
    fs::write(&config, text)?;
    let agent = Agent::of(&mut without_token(&["--config", &config])?)?;
    let url = format!("https://localhost:{}/sfgi/node", agent.address.port());
    let curl = |more: &[&str]| {
        let server = path("server.pem");
        let words = [&["-sS", "--cacert", &server, "-w", "%{http_code}", "-o", "/dev/null"], more, &[&*url]];
        Command::new("curl").args(words.concat()).output()
    };
    let shown = |name: &str, more: &[&str]| {
        let (file, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        curl(&[&["--cert", &file, "--key", &key], more].concat())
    };
    let known = shown("client", &[])?;
    ensure!(known.stdout == b"200", "{known:?}");
    ensure!(!curl(&[])?.status.success() && !shown("stranger", &[])?.status.success(), "anybody is let in");
    // A browser shows its certificate also for a page of another site.
    let lured = shown("client", &["-H", "Sec-Fetch-Site: cross-site"])?;
    ensure!(lured.stdout == b"403", "{lured:?}");
    Ok(())
}

fn files_are_for_their_owner_and_no_link_is_followed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (state, victim) = (directory.path().join("state"), directory.path().join("victim"));
    fs::write(&victim, "mine")?;
    let nothing = ["--include", "^/nothing$"];
    let store = state.join("history").to_string_lossy().into_owned();
    let start = |store: &str| without_token(&[&["--store", store], &nothing[..]].concat());
    let agent = Agent::of(&mut start(&store)?)?;
    for (path, mode) in [(state.clone(), 0o700), (state.join("history"), 0o600), (state.join("token"), 0o600)]
    {
        let meta = fs::metadata(&path)?;
        ensure!(meta.mode() & 0o777 == mode, "{}: {:o}", path.display(), meta.mode());
    }
    drop(agent);
    for name in ["history", "token"] {
        fs::remove_file(state.join(name))?;
        symlink(&victim, state.join(name))?;
        fails(&mut start(&store)?, 1, &[&state.join(name).to_string_lossy()])?;
        fs::remove_file(state.join(name))?;
        ensure!(fs::read_to_string(&victim)? == "mine");
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777))?;
    fails(&mut start(&store)?, 1, &["may be written to by others"])?;
    let config = directory.path().join("sfgi.toml");
    fs::write(
        &config,
        format!("[http]\nlisten = \"127.0.0.1:0\"\n[evidence]\ndirectory = \"{}\"\n", state.display()),
    )?;
    let mut evidence = agent_http::command(&["--config", &config.to_string_lossy()])?;
    fails(&mut evidence, 1, &["evidence.directory", "may be written to by others"])?;
    // What has no end, or no begin, is no token and no configuration.
    for file in ["/dev/zero", "/dev/tty", "/"] {
        fails(&mut without_token(&[&["--token-file", file], &nothing[..]].concat())?, 1, &[file])?;
        fails(&mut agent_http::command(&["--config", file])?, 1, &[file])?;
    }
    let loose = directory.path().join("loose");
    fs::write(&loose, TOKEN)?;
    let agent = Agent::start(&[&["--token-file", &loose.to_string_lossy()], &nothing[..]].concat())?;
    ensure!(agent.process.stderr.text().contains("chmod 600"), "{}", agent.process.stderr.text());
    let mut byte = [0];
    // A client that only connects is closed in time, too.
    let mut idle = TcpStream::connect(agent.address)?;
    idle.set_read_timeout(Some(LONGEST))?;
    ensure!(idle.read(&mut byte)? == 0);
    Ok(())
}

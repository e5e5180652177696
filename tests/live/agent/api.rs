//! The HTTP interface of `sfgi agent`: what it answers, whom it refuses, and that nobody can hold it up.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::{self, AUTHORIZATION, Agent, LONGEST, TOKEN, answer, ask},
    fixture::{self, Variant},
    machine, pprof,
    process::Process,
    sfgi,
    toolchain::{self, Go},
};
use rustix::process::Signal;
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_is_found_is_told_in_pages_and_filtered),
        live(a_scan_can_be_asked_for_and_not_too_often),
        live(any_program_has_profiles_and_documents).quick(),
        live(a_trace_streams_and_ends_with_its_client),
        live(a_token_is_asked_for_and_compared),
        live(tls_answers_and_nothing_else_does_on_its_port),
        live(a_thousand_requests_at_a_time_are_answered),
        live(slow_and_malformed_clients_hold_nobody_up),
        live(history_outlives_a_kill),
    ]
}

fn leaking() -> Result<Process> {
    fixture::start_own("leaks", &Go::newest(), Variant::Plain, &["-class", "send-without-receiver"])
}

fn leaks_of(agent: &Agent) -> Result<Value> {
    agent.until("/sfgi/leaks", |document| document.as_array().is_some_and(|leaks| !leaks.is_empty()))
}

fn what_is_found_is_told_in_pages_and_filtered() -> Result<()> {
    let target = leaking()?;
    let agent = Agent::watching(&target, &[])?;
    let leaks = leaks_of(&agent)?;
    let leak = &leaks[0];
    ensure!(leak["class"] == "send-without-receiver" && leak["process"]["pid"] == target.pid(), "{leak:#}");
    ensure!(leak["silent_failure_type"] == "blocked_forever", "{leak:#}");
    let stack = leak["stack_trace"].as_array().context("no stack")?;
    ensure!(stack.iter().any(|frame| frame["func"].as_str().is_some_and(|func| func.starts_with("main."))));
    let number = |path: &str| Ok::<_, anyhow::Error>(agent.json(path)?.as_array().map_or(0, Vec::len));
    let all = number("/sfgi/leaks")?;
    ensure!(number(&format!("/sfgi/leaks?skip={all}"))? == 0);
    ensure!(number("/sfgi/leaks?limit=1")? == 1);
    ensure!(number("/sfgi/leaks?class=send-without-receiver&verdict=likely&min_count=2")? == 1);
    ensure!(number("/sfgi/leaks?class=none")? == 0 && number("/sfgi/leaks?pid=1")? == 0);
    ensure!(number("/sfgi/alerts")? <= all + 1);

    let processes =
        agent.until("/sfgi/processes", |document| document[0]["history"][0]["leaked"].as_u64() > Some(0))?;
    ensure!(
        processes[0]["go_version"].as_str().is_some_and(|version| version.starts_with("go1.")),
        "{processes:#}"
    );
    let profile = agent.get("/sfgi/profile")?;
    ensure!(profile.text().contains("sfgi_history_goroutines{pid="), "{}", profile.text());

    for (path, status) in [
        ("/sfgi/leaks?limit=0", 400),
        ("/sfgi/leaks?limit=10001", 400),
        ("/sfgi/leaks?verdict=sure", 400),
        ("/sfgi/leaks?vedict=likely", 400),
        ("/sfgi/goroutines", 400),
        ("/sfgi/goroutines?pid=1&func=(", 400),
        ("/sfgi/goroutines?pid=1", 404),
        ("/sfgi/graph", 400),
        ("/sfgi/graph?pid=1&format=svg", 400),
        ("/sfgi/graph?pid=1", 404),
        ("/debug/pprof/goroutine?pid=1", 404),
        ("/debug/pprof/heap?pid=1", 404),
        ("/sfgi/trace?pid=1", 405),
        ("/sfgi/trigger-scan", 405),
        ("/nothing", 404),
        ("/healthz", 200),
        ("/readyz", 200),
    ] {
        let answer = agent.get(path)?;
        ensure!(answer.status == status, "{path}: {} {}", answer.status, answer.text());
        ensure!(status == 200 || answer.json()?["error"].is_string(), "{path}: {}", answer.text());
    }
    Ok(())
}

fn a_scan_can_be_asked_for_and_not_too_often() -> Result<()> {
    let target = leaking()?;
    let agent = Agent::watching(&target, &[])?;
    leaks_of(&agent)?;
    let scanned = agent.post("/sfgi/trigger-scan")?;
    ensure!(scanned.status == 200, "{} {}", scanned.status, scanned.text());
    let found = scanned.json()?;
    ensure!(found["scanned"].as_u64() >= Some(5) && found["leaked"].as_u64() >= Some(5), "{found}");
    let again = agent.post("/sfgi/trigger-scan")?;
    ensure!(
        again.status == 429 && again.header("retry-after").is_some(),
        "{} {}",
        again.status,
        again.text()
    );
    Ok(())
}

fn any_program_has_profiles_and_documents() -> Result<()> {
    let target = leaking()?;
    let agent = Agent::watching(&target, &[])?;
    let pid = target.pid();
    let directory = tempfile::tempdir()?;
    let profile = |name: &str| -> Result<String> {
        let file = directory.path().join("profile.pb.gz");
        let answer = agent.get(&format!("/debug/pprof/{name}"))?;
        ensure!(answer.status == 200, "{name}: {} {}", answer.status, answer.text());
        fs::write(&file, answer.body)?;
        pprof::run(&["-top"], &[&file])
    };
    let goroutines = profile(&format!("goroutine?pid={pid}"))?;
    ensure!(goroutines.contains("main.main"), "{goroutines}");
    let leaked = profile(&format!("goroutineleak?pid={pid}"))?;
    ensure!(leaked.contains("runtime.gopark") || leaked.contains("main."), "{leaked}");
    let text = agent.get(&format!("/debug/pprof/goroutine?pid={pid}&debug=2"))?.text();
    ensure!(text.starts_with("goroutine ") && text.contains("[chan send"), "{text}");
    let graph = agent.json(&format!("/sfgi/graph?pid={pid}"))?;
    ensure!(graph["schema"] == "sfgi.graph/1" && graph["waits"].is_array(), "{graph:#}");
    let drawn = agent.get(&format!("/sfgi/graph?pid={pid}&format=dot"))?.text();
    ensure!(drawn.starts_with("digraph waits {"), "{drawn}");
    let document = agent.json(&format!("/sfgi/goroutines?pid={pid}&reason=chan+send"))?;
    ensure!(document["schema"] == "sfgi.dump/1", "{document:#}");
    let listed = document["goroutines"].as_array().context("no goroutines")?;
    ensure!(listed.len() >= 5 && listed.iter().all(|one| one["wait_reason"] == "chan send"), "{document:#}");
    Ok(())
}

fn a_trace_streams_and_ends_with_its_client() -> Result<()> {
    // Busy, and not so busy that no probe is within the budget.
    let target =
        fixture::start_own("leaks", &Go::newest(), Variant::Plain, &["-class", "select-dead", "-fixed"])?;
    let agent = Agent::watching(&target, &[])?;
    let mut stream = TcpStream::connect(agent.address)?;
    stream.set_read_timeout(Some(LONGEST))?;
    let path = format!("/sfgi/trace?pid={}&seconds=500", target.pid());
    write!(stream, "POST {path} HTTP/1.1\r\nhost: localhost\r\n{AUTHORIZATION}\r\n")?;
    let mut text = String::new();
    while !text.contains("\"schema\":\"sfgi.trace/1\"") {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes)?;
        ensure!(count > 0, "the stream ended:\n{text}\n{}", agent.process.stderr.text());
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    ensure!(!machine::bpf_objects_of(agent.process.pid())?.is_empty(), "no probes while it traces");
    drop(stream);
    let deadline = Instant::now() + LONGEST;
    while !machine::bpf_objects_of(agent.process.pid())?.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "the probes stay: {:?}",
            machine::bpf_objects_of(agent.process.pid())?
        );
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn a_token_is_asked_for_and_compared() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("token");
    fs::write(&file, format!("{TOKEN}\n"))?;
    let agent = Agent::start(&[
        "--listen",
        "0.0.0.0:0",
        "--include",
        "^/nothing$",
        "--token-file",
        &file.to_string_lossy(),
    ])?;
    let address = format!("127.0.0.1:{}", agent.address.port()).parse()?;
    let get = |path: &str, headers: &[(&str, &str)]| ask(address, "GET", path, headers);
    let document = get("/openapi.json", &[("authorization", &format!("Bearer {TOKEN}"))])?.json()?;
    let paths = document["paths"].as_object().context("no paths")?;
    ensure!(paths.len() >= 13, "{paths:?}");
    for (path, methods) in paths {
        let method = if methods["post"].is_object() { "POST" } else { "GET" };
        let open = path == "/healthz" || path == "/readyz";
        for headers in [&[][..], &[("authorization", "Bearer 5d1d0a35ce4cd6d2f1d1a83f3d0d9c1c")]] {
            let status = ask(address, method, path, headers)?.status;
            ensure!((status == 401) != open, "{method} {path} without the token: {status}");
        }
    }
    ensure!(get("/metrics", &[("authorization", &format!("Bearer {TOKEN}"))])?.status == 200);
    Ok(())
}

fn tls_answers_and_nothing_else_does_on_its_port() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (key, certificate, config) = (path("key.pem"), path("certificate.pem"), path("sfgi.toml"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    toolchain::output(openssl.args(["-keyout", &key, "-out", &certificate]))?;
    fs::write(
        &config,
        format!(
            "[http]\nlisten = \"127.0.0.1:0\"\ntls = {{ certificate = \"{certificate}\", key = \"{key}\" }}\n[[include]]\nexe = '^/nothing$'\n"
        ),
    )?;
    let mut without = agent_http::command(&["--config", &config])?;
    sfgi::fails(without.env_remove(agent_http::TOKEN_VARIABLE), 1, &["http.tls", "--token-file"])?;
    let agent = Agent::start(&["--config", &config])?;
    let url = format!("https://localhost:{}/healthz", agent.address.port());
    let answer = toolchain::output(Command::new("curl").args(["-sS", "--cacert", &certificate, &url]))?;
    ensure!(String::from_utf8(answer)? == "{\"status\":\"ok\"}");
    ensure!(agent.get("/healthz").is_err(), "it answers without TLS");
    Ok(())
}

fn a_thousand_requests_at_a_time_are_answered() -> Result<()> {
    let target = leaking()?;
    let agent = Agent::watching(&target, &[])?;
    let began = Instant::now();
    // All are connected before any is answered.
    let mut streams: Vec<TcpStream> =
        (0..1000).map(|_| TcpStream::connect(agent.address)).collect::<Result<_, _>>()?;
    for stream in &mut streams {
        stream.set_read_timeout(Some(LONGEST))?;
        write!(
            stream,
            "GET /sfgi/processes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{AUTHORIZATION}\r\n"
        )?;
    }
    for stream in &mut streams {
        let answer = answer(stream)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    }
    machine::report(&format!("1,000 requests at a time: {:.2} s", began.elapsed().as_secs_f64()));
    Ok(())
}

fn slow_and_malformed_clients_hold_nobody_up() -> Result<()> {
    let agent = Agent::start(&["--include", "^/nothing$"])?;
    let slow: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut stream = TcpStream::connect(agent.address)?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nx: ")?;
            stream.set_read_timeout(Some(LONGEST))?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let long = [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\nhost: localhost\r\n\r\n"].concat();
    let many = [b"GET / HTTP/1.1\r\n".as_slice(), &b"x: y\r\n".repeat(1000), b"\r\n"].concat();
    let body = b"POST /sfgi/trigger-scan HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"
        .to_vec();
    let garbage: Vec<u8> = (0..5000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let malformed = [
        long,
        many,
        body,
        garbage,
        b"\r\n\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /%00%ff HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n"
            .to_vec(),
    ];
    for bytes in malformed {
        let mut stream = TcpStream::connect(agent.address)?;
        // It may hang up before it has read all of it.
        let _ = stream.write_all(&bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        stream.set_read_timeout(Some(LONGEST))?;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let refused =
            ["HTTP/1.1 4", "HTTP/1.0 4", "HTTP/1.1 5"].iter().any(|status| said.starts_with(status));
        ensure!(said.is_empty() || refused || said.starts_with("HTTP/1.1 200"), "{said}");
        ensure!(agent.get("/healthz")?.status == 200);
    }
    // Those who never end their request are sent away.
    for mut stream in slow {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
    }
    ensure!(!agent.process.stderr.text().contains("panicked"), "{}", agent.process.stderr.text());
    Ok(())
}

fn history_outlives_a_kill() -> Result<()> {
    let target = leaking()?;
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("history").to_string_lossy().into_owned();
    let begin = {
        let mut agent = Agent::watching(&target, &["--store", &store])?;
        let steps = agent
            .until("/sfgi/processes", |document| document[0]["history"][0]["leaked"].as_u64() > Some(0))?;
        // Longer than between two commits.
        thread::sleep(Duration::from_secs(13));
        agent.process.signal(Signal::KILL)?;
        agent.process.wait(LONGEST)?;
        steps[0]["history"][0].clone()
    };
    // An interval in which nothing is scanned again: what is shown was remembered.
    let exe = fs::read_link(format!("/proc/{}/exe", target.pid()))?;
    let config = directory.path().join("sfgi.toml");
    fs::write(
        &config,
        format!("[http]\nlisten = \"127.0.0.1:0\"\n[[include]]\nexe = '^{}$'\n", exe.display()),
    )?;
    let agent = Agent::start(&["--store", &store, "--config", &config.to_string_lossy()])?;
    let after = agent.until("/sfgi/processes", |document| document[0]["history"][0].is_object())?;
    let first = &after[0]["history"][0];
    ensure!(first["start_unix_s"] == begin["start_unix_s"], "{begin} became {first}");
    ensure!(first["leaked"].as_u64() >= begin["leaked"].as_u64(), "{begin} became {first}");

    drop(agent);
    fs::write(&store, "not a database")?;
    let mut command = agent_http::command(&["--store", &store, "--include", "^/nothing$"])?;
    let agent = Agent::of(&mut command)?;
    let said = agent.process.stderr.wait_for(LONGEST, |line| line.contains("is damaged"))?;
    ensure!(said.text.contains("set aside"), "{}", said.text);
    Ok(())
}

//! The HTTP interface of `sfgi agent` is what its OpenAPI document says.

use std::{collections::BTreeSet, fs, process::Command};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::{Agent, TOKEN},
    fixture::{self, Variant},
    machine,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![live(answers_are_what_the_document_says).needs(Need::Wheels("schemathesis"))]
}

/// Whatever the document allows, and what it does not, asked thousands of times: the answers are what it says.
fn answers_are_what_the_document_says() -> Result<()> {
    let wheels = machine::wheels("schemathesis")?;
    let target =
        fixture::start_own("leaks", &Go::newest(), Variant::Plain, &["-class", "send-without-receiver"])?;
    let agent = Agent::watching(&target, &[])?;
    let directory = tempfile::tempdir()?;
    // Mostly a process that is there is meant, and what goes on for as long as it is asked to goes on for a second.
    let config = directory.path().join("schemathesis.toml");
    let text = format!(
        "[parameters]\n\"query.pid\" = {{ dictionary = \"pid\", probability = 0.6 }}\n\
         [[operations]]\ninclude-path-regex = \"^/(sfgi/trace|debug/pprof/block)$\"\ngeneration.max-examples = 15\n\
         parameters.\"query.pid\" = {{ dictionary = \"pid\", probability = 0.6 }}\n\
         parameters.\"query.seconds\" = {{ dictionary = \"second\", probability = 1.0 }}\n\
         [dictionaries]\nsecond.values = [1]\npid.values = [{}]\n",
        target.pid()
    );
    fs::write(&config, text)?;
    let answers = directory.path().join("answers.har");
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", &wheels).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(directory.path());
    python.args(["-m", "schemathesis.cli", "--config-file", &config.to_string_lossy()]);
    python.args(["run", &format!("http://{}/openapi.json", agent.address)]);
    python.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
    python.args(["--report", "har", "--report-har-path", &answers.to_string_lossy()]);
    python.args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection,unsupported_method"]);
    python.args(["--max-examples", "40", "--request-timeout", "60", "--seed", "1", "--no-color"]);
    let output = python.output()?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    ensure!(agent.get("/healthz")?.status == 200);

    // All were asked what is right and what is wrong; also those that stream.
    let report: Value = serde_json::from_slice(&fs::read(&answers)?)?;
    let entries = report["log"]["entries"].as_array().context("no entries")?;
    let paths = agent.json("/openapi.json")?["paths"].clone();
    // The document itself it has read before.
    let paths = paths.as_object().context("no paths")?.iter().filter(|(path, _)| *path != "/openapi.json");
    for (path, methods) in paths {
        let url = format!("http://{}{path}", agent.address);
        let takes =
            methods.as_object().is_some_and(|all| all.values().any(|one| one["parameters"].is_array()));
        let asked = entries.iter().filter(|one| {
            one["request"]["url"].as_str().is_some_and(|asked| asked.split('?').next() == Some(url.as_str()))
        });
        let statuses: BTreeSet<u64> = asked.filter_map(|one| one["response"]["status"].as_u64()).collect();
        ensure!(statuses.contains(&400) || !takes, "{path} was asked nothing wrong: {statuses:?}");
        let good = match path.as_str() {
            "/sfgi/trigger-scan" => 429, // nearly all come too soon
            _ => 200,
        };
        ensure!(statuses.contains(&good), "{path} was never answered: {statuses:?}");
    }
    Ok(())
}

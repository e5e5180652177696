mod access;
mod alerts;
mod api;
mod bounds;
mod config;
mod deploy;
mod deploy_files;
mod document;
mod governor;
mod growth;
mod hostile;
mod memory;
mod metrics;
mod otlp;
mod requests;
mod same;
mod signs;
mod watch;
mod web;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [
        access::tests(),
        alerts::tests(),
        api::tests(),
        bounds::tests(),
        config::tests(),
        deploy::tests(),
        deploy_files::tests(),
        document::tests(),
        governor::tests(),
        growth::tests(),
        hostile::tests(),
        memory::tests(),
        metrics::tests(),
        otlp::tests(),
        requests::tests(),
        same::tests(),
        signs::tests(),
        watch::tests(),
        web::tests(),
    ];
    all.into_iter().flatten().collect()
}

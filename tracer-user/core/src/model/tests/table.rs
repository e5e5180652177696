//! The table of transitions is complete, unambiguous and sourced.

use super::*;
use crate::goruntime::Release;
use crate::goruntime::transitions::{By, EDGES};
use std::collections::HashSet;

#[test]
fn no_edge_stands_twice_and_each_has_a_source() {
    let mut seen = HashSet::new();
    for edge in EDGES {
        assert!(seen.insert((edge.from, edge.to, edge.source)), "twice: {edge:?}");
        let (file, rest) = edge.source.split_once(": ").expect("FILE: FUNCTION");
        assert!(file.ends_with(".go") && !rest.is_empty(), "{edge:?}");
        assert!(
            edge.since >= Release::OLDEST.minor() && edge.until.is_none_or(|until| until >= edge.since),
            "{edge:?}"
        );
        assert!(edge.from != edge.to && edge.from.status().is_some() && edge.to.status().is_some());
    }
}

#[test]
fn one_function_does_not_make_the_same_change_twice_in_one_version() {
    for minor in 19..=27 {
        let mut seen = HashSet::new();
        for edge in EDGES.iter().filter(|edge| edge.holds_in(Release::new(minor))) {
            let function = edge.source.split(" (").next();
            assert!(seen.insert((edge.from, edge.to, edge.by == By::OwnCas, function)), "{minor}: {edge:?}");
        }
    }
}

#[test]
fn a_version_newer_than_known_has_the_edges_of_the_newest() {
    let edges =
        |minor| EDGES.iter().filter(move |edge| edge.holds_in(Release::new(minor))).collect::<Vec<_>>();
    assert_eq!(edges(27), edges(99));
    assert_eq!(edges(18), edges(19));
}

#[test]
fn every_legal_change_has_a_name_but_those_that_say_nothing() {
    for edge in EDGES {
        let silent = edge.from == State::Idle || edge.from == State::CopyStack || edge.to == State::CopyStack;
        assert_eq!(What::of(edge.from, edge.to).is_none(), silent, "{edge:?}");
    }
}

#[test]
fn states_and_numbers_agree() {
    for raw in 0..=255u8 {
        let state = State::from_status(raw);
        match state.status() {
            Some(number) => assert_eq!(number, raw),
            None => assert!(matches!(state, State::Unknown | State::Invalid(_)), "{raw}"),
        }
    }
}

#[test]
fn all_lists_are_complete() {
    let names: HashSet<&str> = What::ALL.iter().map(|what| what.name()).collect();
    assert_eq!(names.len(), What::ALL.len());
    let texts: HashSet<&str> = Bypass::ALL.iter().map(|bypass| bypass.what()).collect();
    assert_eq!(texts.len(), Bypass::ALL.len());
}

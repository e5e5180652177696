//! What is said of observations made by hand.

mod classes;
mod lasting;
mod rules;
mod silent;
mod verdicts;
mod world;

use world::World;

/// One goroutine that nothing can reach, with this reason and stack, is of this rule.
#[track_caller]
fn assert_proven(reason: &str, stack: &[&str], rule: &str) {
    let mut world = World::new();
    world.add(1, reason, stack, |_, _, facts| facts.unreachable = true);
    assert_eq!(world.found(), [("proven", rule.to_owned(), 1)], "{reason}: {stack:?}");
}

//! Exploring a cell to its end, or to its first counterexample.

use std::num::NonZeroUsize;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use super::cell::Cell;
use super::step::Step;
use super::world::World;

/// Explores every state of a cell; every guarantee has to hold, and what makes that worth something has to occur.
pub(crate) fn holds(cell: Cell) {
    let began = Instant::now();
    let checker = cell.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{}: {} states, {} steps, at most {} deep, {:.1} s",
        cell.name,
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64(),
    );
    let found = checker.discoveries();
    for property in cell.properties() {
        let path = found.get(property.name);
        match (property.expectation, path) {
            (Expectation::Sometimes, None) => panic!("{}: never occurs: {}", cell.name, property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(path)) => panic!("{}: violated: {}\n{path}{:#?}", cell.name, property.name, path.last_state()),
        }
    }
}

/// Looks for the shortest way to break one guarantee, and prints it.
pub(crate) fn breaks(cell: Cell, guarantee: &'static str) {
    let Some(mut path) = breach(cell, guarantee, None) else {
        panic!("{}, {:?}: not broken: {guarantee}", cell.name, cell.flaw);
    };
    // The checker goes on for a while after the first one, and keeps the last one.
    while let Some(shorter) = breach(cell, guarantee, NonZeroUsize::new(path.clone().into_actions().len())) {
        path = shorter;
    }
    println!("{}, {:?}: broken: {guarantee}\n{path}{:#?}", cell.name, cell.flaw, path.last_state());
}

/// A way to break a guarantee, in fewer than so many steps where that is said.
fn breach(cell: Cell, guarantee: &'static str, below: Option<NonZeroUsize>) -> Option<Path<World, Step>> {
    let finish = HasDiscoveries::AnyOf([guarantee].into());
    let checker = cell.checker().threads(1).finish_when(finish);
    let checker = match below {
        // States are counted there, and those past the last one are left out before they are looked at.
        Some(steps) => checker.target_max_depth(steps.get() + 1),
        None => checker,
    };
    checker.spawn_bfs().join().discovery(guarantee)
}

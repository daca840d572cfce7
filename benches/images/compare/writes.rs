//! Creates, Updates and Deletes, by one client and by many.

use super::row::{Goal, Row};
use crate::burst::{self, Until};
use crate::report::{Progress, Unit};
use crate::targets::{Both, MANY, prepare};
use crate::{Result, store};

/// Creates of a single client a turn.
const CREATES_OF_ONE: u32 = 250;

/// Creates of each of many clients a turn.
const CREATES_OF_EACH: u32 = 50;

/// Creates, changes and deletes images beside those that stay: the store is the same after.
pub async fn measure(both: &Both, turns: u32, progress: &Progress) -> Result<Vec<Row>> {
    let row = |operation, clients, least| {
        Row::new(operation, clients, Unit::Rate, Some(Goal::Ratio(least)))
    };
    let mut one = row("Create", 1, 1.5);
    let mut rows = [row("Create", MANY, 6.0), row("Update", MANY, 6.0), row("Delete", MANY, 6.0)];
    progress.say("Create, Update, Delete");
    for turn in 0..=turns {
        for (column, target) in both.turn(turn) {
            let protocol = target.protocol;
            let number = turn * both.targets.len() as u32 + column as u32;
            let numbers = 0..if turn == 0 { 100 } else { CREATES_OF_ONE };
            let more = numbers.end
                ..numbers.end + if turn == 0 { 100 } else { CREATES_OF_EACH * MANY as u32 };
            let all = || 0..more.end;
            let created = |n| store::create_passing(number, n);
            both.settle().await?;
            let single = prepare(protocol, "Create", numbers.clone().map(created))?;
            let single = burst::run(target, 1, &single, Until::Once).await?;
            let many = [
                prepare(protocol, "Create", more.clone().map(created))?,
                prepare(protocol, "Update", all().map(|n| store::label_passing(number, n)))?,
                prepare(protocol, "Delete", all().map(|n| store::delete_passing(number, n)))?,
            ];
            let mut bursts = Vec::new();
            for requests in &many {
                both.settle().await?;
                bursts.push(burst::run(target, MANY, requests, Until::Once).await?);
            }
            if turn > 0 {
                one.add(column, single.rate(), Some(&single));
                for (row, burst) in rows.iter_mut().zip(&bursts) {
                    row.add(column, burst.rate(), Some(burst));
                }
            }
        }
        if turn > 0 {
            progress.step();
        }
    }
    Ok([one].into_iter().chain(rows).collect())
}

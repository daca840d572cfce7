//! The shortest sequence found that still makes a difference of the same kind.

use super::{Difference, Outcome, Sequence, Servers, play};

/// Shortens a sequence that makes a difference.
pub async fn shorten<S: Servers>(
    servers: &mut S,
    mut best: Sequence<S::Step, S::Setup>,
    mut difference: Difference,
) -> (Sequence<S::Step, S::Setup>, Difference) {
    best.steps.truncate(difference.at + 1);
    let mut trials = 0;
    'again: loop {
        for steps in candidates::<S>(&best.steps) {
            trials += 1;
            if trials > S::TRIALS {
                break 'again;
            }
            let mut candidate = Sequence { steps, setup: best.setup.clone() };
            let found = play(servers, &candidate, &mut Outcome::default()).await;
            if let Some(found) = found.filter(|found| found.kind == difference.kind) {
                candidate.steps.truncate(found.at + 1);
                (best, difference) = (candidate, found);
                continue 'again;
            }
        }
        break;
    }
    (best, difference)
}

/// Without some steps, half of them first; then with simpler ones.
fn candidates<S: Servers>(steps: &[S::Step]) -> Vec<Vec<S::Step>> {
    let mut found = Vec::new();
    let mut size = steps.len() / 2;
    while size > 0 {
        for from in (0..steps.len()).step_by(size) {
            let mut fewer = steps.to_vec();
            fewer.drain(from..(from + size).min(steps.len()));
            if !fewer.is_empty() {
                found.push(fewer);
            }
        }
        size /= 2;
    }
    found.extend(S::simpler(steps));
    found
}

//! Whether a compiled pattern is found in a text, in steps that the caller can stop.
//!
//! A match takes time in proportion to the size of the pattern times the length of
//! the text. Both are the client's, so their product may stand for minutes. `regex`
//! offers no way to end a match; the lazily built automaton under it can be fed byte
//! by byte. It alone is used here, and for short texts too: one engine means the same
//! everywhere, and takes less memory than `regex` with its several.
//!
//! The automaton's cache of states is emptied when it is full, and a state that is not
//! in it is computed from the pattern, in time proportional to the pattern's size. So
//! each byte has a bound, which is what [`Matcher::try_match`] counts by.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::prefilter::Prefilter;
use regex_automata::{Input, MatchKind};
use regex_syntax::hir::Hir;

/// The memory of the automaton's cache, as a multiple of the pattern's, within these bounds, in
/// bytes, and no more than the pattern may take, unless the least it needs is more.
const CACHE_FACTOR: usize = 16;
const MIN_CACHE: usize = 32 << 10;
const MAX_CACHE: usize = 2 << 20;

/// The work between two calls of `step`: states of the pattern times bytes of text. In the worst
/// case a unit of it takes some 10 ns.
const STEP_WORK: usize = 32 << 10;

/// A compiled pattern. Clones share it, and its cache.
#[derive(Clone, Debug)]
pub struct Matcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    automaton: DFA,
    cache: Mutex<Cache>,
    /// The most states of the pattern that one byte of text may visit.
    states: usize,
}

impl Matcher {
    /// Compiles `tree`; `None` when it takes more than `size_limit` bytes.
    pub(super) fn new(tree: &Hir, size_limit: usize) -> Option<Self> {
        let config = thompson::Config::new()
            // No match begins or ends inside of a rune: the tree sees to that.
            .utf8(false)
            .nfa_size_limit(Some(size_limit))
            .which_captures(WhichCaptures::None);
        let nfa = thompson::Compiler::new().configure(config).build_from_hir(tree).ok()?;
        let states = nfa.states().len();
        let capacity = (nfa.memory_usage() * CACHE_FACTOR).clamp(MIN_CACHE, MAX_CACHE);
        // Finds where a match may begin by its first letters, for short texts.
        let prefilter = Prefilter::from_hir_prefix(MatchKind::LeftmostFirst, tree);
        let config = DFA::config()
            .prefilter(prefilter)
            .cache_capacity(capacity.min(size_limit))
            .skip_cache_capacity_check(true);
        let automaton = DFA::builder().configure(config).build_from_nfa(nfa).ok()?;
        let cache = Mutex::new(automaton.create_cache());
        Some(Self(Arc::new(Shared { automaton, cache, states })))
    }

    /// The memory it takes at most, in bytes.
    pub fn memory(&self) -> usize {
        let Shared { automaton, .. } = &*self.0;
        let capacity = automaton.get_config().get_cache_capacity();
        // The least that a cache needs is about the size of the pattern.
        let pattern = automaton.get_nfa().memory_usage();
        let prefilter = automaton.get_config().get_prefilter().map_or(0, Prefilter::memory_usage);
        let both = automaton.memory_usage() + pattern + prefilter;
        size_of::<Shared>() + both + capacity.max(pattern)
    }

    /// Whether the pattern is found in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        match self.try_match(text, &mut || Ok::<_, Infallible>(())) {
            Ok(found) => found,
            Err(never) => match never {},
        }
    }

    /// Whether the pattern is found in `text`. `step` is called before each piece of work, if that is
    /// more than one; its error ends the match.
    ///
    /// # Errors
    /// The errors of `step`.
    pub fn try_match<E>(
        &self,
        text: &str,
        step: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        let Shared { automaton, cache, states } = &*self.0;
        let piece = (STEP_WORK / (*states).max(1)).max(1);
        // A panic in the automaton leaves a cache that may be of no use.
        let mut cache = cache.lock().unwrap_or_else(|poisoned| {
            let mut cache = PoisonError::into_inner(poisoned);
            automaton.reset_cache(&mut cache);
            cache
        });
        let input = Input::new(text).earliest(true);
        if text.len() <= piece {
            return Ok(automaton.try_search_fwd(&mut cache, &input).is_ok_and(|m| m.is_some()));
        }
        // Only an automaton that may give up ever fails, and this one may not.
        let Ok(mut state) = automaton.start_state_forward(&mut cache, &input) else {
            return Ok(false);
        };
        for piece in text.as_bytes().chunks(piece) {
            step()?;
            for byte in piece {
                let Ok(next) = automaton.next_state(&mut cache, state, *byte) else {
                    return Ok(false);
                };
                if next.is_match() || next.is_dead() {
                    return Ok(next.is_match());
                }
                state = next;
            }
        }
        Ok(automaton.next_eoi_state(&mut cache, state).is_ok_and(|state| state.is_match()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::super::{SIZE_LIMIT, compile, on_rune_boundaries, parse};
    use super::*;

    /// The result of `regex` for the same tree, printed.
    fn by_regex(pattern: &str, text: &str) -> bool {
        let (tree, _) = parse::parse(pattern).unwrap();
        let printed = on_rune_boundaries(tree).to_string();
        regex::Regex::new(&printed).unwrap().is_match(text)
    }

    /// In pieces of one byte, whatever the pattern's size.
    fn by_bytes(matcher: &Matcher, text: &str) -> bool {
        let Shared { automaton, .. } = &*matcher.0;
        let automaton = automaton.clone();
        let cache = Mutex::new(automaton.create_cache());
        let slow = Matcher(Arc::new(Shared { automaton, cache, states: STEP_WORK }));
        slow.is_match(text)
    }

    fn pattern() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[abé]",
            Just(".".to_owned()),
            Just("\\b".to_owned()),
            Just("\\B".to_owned()),
            Just("^".to_owned()),
            Just("$".to_owned()),
            Just("[^a]".to_owned()),
            Just("\\pL".to_owned()),
            Just("(?i)k".to_owned()),
            Just("(?m)^a$".to_owned()),
            Just("\n".to_owned()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
                prop::collection::vec(inner.clone(), 1..4)
                    .prop_map(|parts| format!("(?:{})", parts.join("|"))),
                inner.clone().prop_map(|part| format!("(?:{part})*")),
                inner.clone().prop_map(|part| format!("(?:{part})?")),
                inner.prop_map(|part| format!("(?:{part}){{2,3}}")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_match_in_pieces_says_what_regex_says(
            pattern in pattern(),
            texts in prop::collection::vec("[abékK\u{212a} \n]{0,12}", 1..6),
        ) {
            let compiled = compile(pattern.as_bytes(), SIZE_LIMIT).unwrap();
            for text in &texts {
                let expected = by_regex(&pattern, text);
                prop_assert_eq!(compiled.matcher.is_match(text), expected, "{:?}", text);
                prop_assert_eq!(by_bytes(&compiled.matcher, text), expected, "{:?}", text);
            }
        }
    }

    /// A pattern of some 60,000 states that keeps all of them busy.
    fn expensive() -> Matcher {
        let pattern = format!("(?:{})", vec!["(?:a?b?){1000}c"; 30].join("|"));
        compile(pattern.as_bytes(), SIZE_LIMIT).unwrap().matcher
    }

    #[test]
    fn a_match_ends_soon_after_its_time() {
        let (matcher, text) = (expensive(), "ab".repeat(512 << 10));
        let begun = Instant::now();
        let mut step =
            || if begun.elapsed() > Duration::from_millis(50) { Err(()) } else { Ok(()) };
        assert_eq!(matcher.try_match(&text, &mut step), Err(()));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_memory_of_a_match_stays_within_its_bound() {
        let matcher = expensive();
        let text = "ab".repeat(200);
        assert!(!matcher.is_match(&text));
        let cache = matcher.0.cache.lock().unwrap().memory_usage();
        let pattern = matcher.0.automaton.get_nfa().memory_usage();
        assert!(cache + pattern <= matcher.memory(), "{cache} + {pattern}");
    }
}

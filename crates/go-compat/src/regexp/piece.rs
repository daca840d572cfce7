//! Parts of a syntax tree, with the numbers that Go's limits apply to.

use regex_syntax::hir::{Capture, Hir, HirKind, Repetition};

use super::RegexpError;

/// Go's limit on how deep a tree may be, leaves included.
pub(super) const MAX_HEIGHT: u32 = 1000;
/// Go's limit on a repetition count, alone or multiplied with those inside.
pub(super) const MAX_REPEATS: u32 = 1000;
/// Go's limit on instructions: those of 40 bytes each that fit into 128 MiB.
const MAX_INSTRUCTIONS: u64 = (128 << 20) / 40;

/// A subtree.
#[derive(Debug)]
pub(super) struct Piece {
    tree: Hir,
    shape: Shape,
    /// Levels of operators, counted as Go nests them.
    height: u32,
    /// The largest product of repetition counts on a path from the root to a leaf.
    repeats: u32,
    /// Instructions in Go's estimate.
    size: u64,
}

/// The shape of a piece. By shapes, Go merges neighbours: literals that follow each other become one, and a
/// sequence in a sequence, or a choice in a choice, adds no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Literal { folded: bool },
    Sequence,
    Choice,
    Other,
}

impl Piece {
    /// A single rune, or the runes that it folds to.
    pub(super) fn literal(tree: Hir, folded: bool) -> Self {
        Piece { tree, shape: Shape::Literal { folded }, height: 1, repeats: 0, size: 1 }
    }

    /// A class, an assertion, or an empty expression.
    pub(super) fn leaf(tree: Hir) -> Self {
        Piece { tree, shape: Shape::Other, height: 1, repeats: 0, size: 1 }
    }

    /// The tree and its height.
    pub(super) fn into_tree(self) -> (Hir, u32) {
        (self.tree, self.height)
    }

    /// The piece in a capturing group. The group itself is not kept.
    pub(super) fn captured(self) -> Result<Self, RegexpError> {
        let (height, size) = (self.height + 1, self.size + 2);
        Piece { shape: Shape::Other, height, size, ..self }.within_limits()
    }

    /// The piece `min` to `max` times, by one of the operators `*`, `+` and `?`.
    pub(super) fn repeated(self, min: u32, max: Option<u32>) -> Result<Self, RegexpError> {
        let size = if min == 0 && max.is_none() { self.size + 2 } else { self.size + 1 };
        let repeats = self.repeats;
        self.repetition(min, max, repeats, size)
    }

    /// The piece `min` to `max` times, by an operator in braces.
    pub(super) fn counted(self, min: u32, max: Option<u32>) -> Result<Self, RegexpError> {
        let sub = self.size;
        let size = match max {
            None if min == 0 => sub + 2,
            None => sub.saturating_mul(min.into()) + 1,
            Some(max) => sub.saturating_mul(max.into()) + u64::from(max.saturating_sub(min)),
        };
        let repeats = match max {
            // `{0}` repeats no part of the piece.
            Some(0) => 0,
            _ => max.unwrap_or(min).max(1).saturating_mul(self.repeats.max(1)),
        };
        if repeats > MAX_REPEATS {
            return Err(RegexpError::InvalidRepeatSize);
        }
        self.repetition(min, max, repeats, size)
    }

    fn repetition(
        self,
        min: u32,
        max: Option<u32>,
        repeats: u32,
        size: u64,
    ) -> Result<Self, RegexpError> {
        // The matcher compiles the printed tree, and a repetition of a repetition would be printed as
        // `a{2}?`, which means something else. A group separates them.
        let sub = match self.tree.kind() {
            HirKind::Repetition(_) => {
                Hir::capture(Capture { index: 1, name: None, sub: Box::new(self.tree) })
            }
            _ => self.tree,
        };
        let repetition = Repetition { min, max, greedy: true, sub: Box::new(sub) };
        let tree = Hir::repetition(repetition);
        Piece { tree, shape: Shape::Other, height: self.height + 1, repeats, size }.within_limits()
    }

    /// The pieces one after the other.
    pub(super) fn sequence(mut pieces: Vec<Piece>) -> Result<Self, RegexpError> {
        match pieces.pop() {
            None => return Ok(Piece::leaf(Hir::empty())),
            Some(only) if pieces.is_empty() => return Ok(only),
            Some(last) => pieces.push(last),
        }
        let mut shapes = pieces.iter().map(|piece| piece.shape);
        let first = shapes.next().unwrap_or(Shape::Other);
        let one_literal =
            matches!(first, Shape::Literal { .. }) && shapes.all(|shape| shape == first);
        let shape = if one_literal { first } else { Shape::Sequence };
        Piece::joined(pieces, shape, Hir::concat)
    }

    /// One of the pieces.
    pub(super) fn choice(mut pieces: Vec<Piece>) -> Result<Self, RegexpError> {
        match pieces.pop() {
            Some(only) if pieces.is_empty() => Ok(only),
            last => {
                pieces.extend(last);
                Piece::joined(pieces, Shape::Choice, Hir::alternation)
            }
        }
    }

    fn joined(
        pieces: Vec<Piece>,
        shape: Shape,
        join: impl FnOnce(Vec<Hir>) -> Hir,
    ) -> Result<Self, RegexpError> {
        let below = |piece: &Piece| piece.height - u32::from(piece.shape == shape);
        let height = match shape {
            Shape::Literal { .. } => 1,
            _ => 1 + pieces.iter().map(below).max().unwrap_or_default(),
        };
        let between = if shape == Shape::Choice { pieces.len().saturating_sub(1) } else { 0 };
        let size = pieces.iter().map(|piece| piece.size).sum::<u64>() + between as u64;
        let repeats = pieces.iter().map(|piece| piece.repeats).max().unwrap_or_default();
        let tree = join(pieces.into_iter().map(|piece| piece.tree).collect());
        Piece { tree, shape, height, repeats, size }.within_limits()
    }

    fn within_limits(self) -> Result<Self, RegexpError> {
        if self.size > MAX_INSTRUCTIONS {
            return Err(RegexpError::TooLarge);
        }
        if self.height > MAX_HEIGHT {
            return Err(RegexpError::NestingDepth);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Piece {
        Piece::literal(Hir::literal(*b"a"), false)
    }

    fn nested(levels: u32) -> Result<Piece, RegexpError> {
        (0..levels).try_fold(letter(), |piece, _| piece.repeated(0, None))
    }

    #[test]
    fn depth_is_limited() {
        assert!(nested(999).is_ok());
        assert_eq!(nested(1000).err(), Some(RegexpError::NestingDepth));
        let flat =
            Piece::sequence(vec![Piece::sequence(vec![letter(), letter()]).unwrap(), letter()]);
        assert_eq!(flat.unwrap().height, 1);
    }

    #[test]
    fn nested_counts_multiply() {
        let thousand = || letter().counted(0, Some(10)).unwrap().counted(100, None).unwrap();
        assert_eq!(thousand().repeats, 1000);
        let beyond = thousand().captured().unwrap().counted(2, Some(2));
        assert_eq!(beyond.err(), Some(RegexpError::InvalidRepeatSize));
        let never = thousand().counted(0, Some(0)).unwrap().counted(1000, Some(1000));
        assert!(never.is_ok());
    }

    #[test]
    fn size_is_limited() {
        let thousand = || letter().counted(1000, Some(1000)).unwrap();
        assert!(Piece::sequence((0..3355).map(|_| thousand()).collect()).is_ok());
        let beyond = Piece::sequence((0..3356).map(|_| thousand()).collect());
        assert_eq!(beyond.err(), Some(RegexpError::TooLarge));
    }
}

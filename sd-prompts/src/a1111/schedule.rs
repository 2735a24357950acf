use std::collections::{BTreeSet, HashMap};

use super::tree::{Group, Kind, When, groups};
use crate::SyntaxError;

/// Text that holds up to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// The last step, counted from 0, that the text holds for. A1111 counts schedules from 1 and
    /// steps from 0, so `[a:b:5]` is `a` for six steps.
    pub end: usize,
    /// The text.
    pub text: String,
}

/// The texts of a prompt over a run of `steps` steps, in their order; the last holds to the end.
///
/// `[a:b:0.5]` is `a` for half of the steps and `b` then, `[a:b:5]` changes at the fifth step, `[a:5]`
/// and `[a::5]` begin and end there, `[a|b]` takes turns. A number with a point is a share of the
/// steps, so `1.0` is all of them and `1` the first. What does not follow the grammar is text.
///
/// Of a second pass, steps are counted on from the `behind` ones of the first, and shares from 1: in
/// it `[a:b:0.5]` is `b` from the beginning and `[a:b:1.5]` changes in the middle. Of a first pass
/// `behind` is 0.
///
/// # Errors
/// [`SyntaxError`] for a step that no number holds.
pub fn schedule(text: &str, steps: usize, behind: usize) -> Result<Vec<Timed>, SyntaxError> {
    let pass = Pass { steps, behind };
    let Some(groups) = groups(text)?.filter(|groups| !groups.is_empty()) else {
        let (end, text) = (steps, text.into());
        return Ok(vec![Timed { end, text }]);
    };
    let mut ends = BTreeSet::from([steps]);
    for group in &groups {
        match group.kind {
            Kind::Alternate => ends.extend(1..=steps),
            Kind::Scheduled(when) => ends.extend(pass.end(when)),
        }
    }
    let by_start: HashMap<usize, &Group> = groups.iter().map(|g| (g.start, g)).collect();
    let timed = |end| Timed {
        end,
        text: at_step(text, &by_start, end, pass),
    };
    Ok(ends.into_iter().map(timed).collect())
}

/// The steps of a pass, and of the one before it.
#[derive(Clone, Copy)]
struct Pass {
    steps: usize,
    behind: usize,
}

impl Pass {
    /// The step up to which a schedule's first choice holds, if there is one.
    fn end(self, when: When) -> Option<usize> {
        let step = match (when, self.behind) {
            (When::Steps(step), behind) => step - behind as f64,
            (When::Share(share), 0) => share * self.steps as f64,
            (When::Share(share), _) => (share - 1.0) * self.steps as f64,
        };
        // A number below 1 becomes 0 here, as everything negative does.
        let step = (step as usize).min(self.steps);
        (step >= 1).then_some(step)
    }
}

/// The text of step number `step`, from 1.
fn at_step(text: &str, groups: &HashMap<usize, &Group>, step: usize, pass: Pass) -> String {
    let mut made = String::with_capacity(text.len());
    // Ranges of the text that are still to come, the last one first.
    let mut ranges = Vec::from_iter(Some(0..text.len()));
    while let Some(range) = ranges.pop() {
        let mut from = range.start;
        let opening = |at: &usize| groups.get(at).copied();
        let brackets = text[range.clone()].match_indices('[');
        let mut found = brackets.filter_map(|(at, _)| opening(&(range.start + at)));
        match found.next() {
            None => made.push_str(&text[range]),
            Some(group) => {
                made.push_str(&text[from..group.start]);
                from = group.end + 1;
                ranges.push(from..range.end);
                ranges.extend(chosen(group, step, pass));
            }
        }
    }
    made
}

/// The choice of `group` at step number `step`, from 1.
fn chosen(group: &Group, step: usize, pass: Pass) -> Option<std::ops::Range<usize>> {
    let starts = std::iter::once(&group.start).chain(&group.marks);
    let ends = group.marks.iter().chain(std::iter::once(&group.end));
    let choices = starts.zip(ends).map(|(start, end)| start + 1..*end);
    let mut choices: Vec<_> = choices.collect();
    match group.kind {
        Kind::Alternate => {
            let turn = (step + choices.len() - 1) % choices.len();
            Some(choices.swap_remove(turn))
        }
        Kind::Scheduled(when) => {
            // The last is the number.
            choices.pop();
            let after = choices.pop();
            let is_before = pass.end(when).is_some_and(|end| step <= end);
            if is_before { choices.pop() } else { after }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What A1111's `get_learned_conditioning_prompt_schedules` makes of them with 10 steps and then
    /// 20 in a second pass.
    #[test]
    fn a_second_pass_goes_on_counting() {
        let made = |text| -> Vec<(usize, String)> {
            let timed = schedule(text, 20, 10).unwrap().into_iter();
            timed.map(|timed| (timed.end, timed.text)).collect()
        };
        assert_eq!(made("[a:b:0.5]"), [(20, "b".into())]);
        for text in ["[a:b:1.25]", "[a:b:15]"] {
            assert_eq!(made(text), [(5, "a".into()), (20, "b".into())]);
        }
    }
}

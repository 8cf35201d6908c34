//! Which value a name of the file stands for: a stack, as subgraphs see the names around them.

use crate::ir::ValueId;
use std::collections::HashMap;

/// Names by scope; the innermost is the last.
pub(crate) struct Scopes(Vec<HashMap<String, ValueId>>);

impl Default for Scopes {
    fn default() -> Scopes {
        Scopes(vec![HashMap::new()])
    }
}

impl Scopes {
    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<ValueId> {
        self.0.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    /// Gives a name of the innermost scope to a value; false if it has one already.
    pub(super) fn define(&mut self, name: &str, value: ValueId) -> bool {
        self.0.last_mut().is_some_and(|scope| scope.insert(name.to_owned(), value).is_none())
    }

    /// Opens a scope.
    pub(super) fn push(&mut self) {
        self.0.push(HashMap::new());
    }

    /// Closes the innermost scope.
    pub(super) fn pop(&mut self) {
        self.0.pop();
    }
}

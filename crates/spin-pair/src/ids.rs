//! Many short lists of token ids in two allocations.

/// Lists of ids, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdLists {
    ids: Vec<u32>,
    /// Where each list ends.
    ends: Vec<usize>,
}

impl IdLists {
    /// Adds a list.
    pub fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.ends.push(self.ids.len());
    }

    /// Adds the lists of another.
    pub fn append(&mut self, other: &IdLists) {
        let before = self.ids.len();
        self.ids.extend_from_slice(&other.ids);
        self.ends.extend(other.ends.iter().map(|end| before + end));
    }

    /// A list by its number.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn get(&self, number: usize) -> &[u32] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ids[start..self.ends[number]]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stay_apart() {
        let mut lists = IdLists::default();
        lists.push(&[1, 2]);
        lists.push(&[]);
        let mut more = IdLists::default();
        more.push(&[3]);
        lists.append(&more);
        lists.append(&lists.clone());
        let all: Vec<&[u32]> = (0..lists.len()).map(|i| lists.get(i)).collect();
        assert_eq!(all, [&[1, 2][..], &[], &[3], &[1, 2], &[], &[3]]);
    }
}

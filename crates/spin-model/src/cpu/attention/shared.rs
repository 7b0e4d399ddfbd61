//! Rows that tasks write to side by side.

use std::ops::Range;

/// Rows shared by tasks that write to different columns or different rows.
pub(in crate::cpu) struct SharedRows {
    values: *mut f32,
    len: usize,
    width: usize,
}

// SAFETY: `row` is called for parts that no other task touches.
unsafe impl Sync for SharedRows {}

impl SharedRows {
    pub fn new(values: &mut [f32], width: usize) -> Self {
        Self { values: values.as_mut_ptr(), len: values.len(), width }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    ///
    /// No two tasks may ask for the same part, nor one task while it holds the
    /// part already, and the slice this was made of must not be used meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the tasks write to disjoint parts")]
    pub unsafe fn row(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        let at = row * self.width + columns.start;
        assert!(columns.end <= self.width && at + columns.len() <= self.len);
        // SAFETY: within the slice, as asserted; exclusive, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(at), columns.len()) }
    }
}

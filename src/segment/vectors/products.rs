//! Products of many vectors with many others, as one multiplication of matrices.

/// Writes to `out` the product of each vector of `a` with each of `b`, those of the first of `a` first.
pub(super) fn products(a: &[f32], b: &[f32], dims: usize, out: &mut [f32]) {
    let (rows, columns) = (a.len() / dims, b.len() / dims);
    assert!(a.len() == rows * dims && b.len() == columns * dims && out.len() == rows * columns);
    let stride = dims as isize;
    // SAFETY: `a` has `rows` times `dims` elements, row after row; `b` is read as its transpose, `dims` times `columns`;
    // `out` has `rows` times `columns`, and nothing else refers to it. The assertion above says so.
    unsafe {
        matrixmultiply::sgemm(
            rows,
            dims,
            columns,
            1.0,
            a.as_ptr(),
            stride,
            1,
            b.as_ptr(),
            1,
            stride,
            0.0,
            out.as_mut_ptr(),
            columns as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::products;

    #[test]
    fn each_is_multiplied_with_each() {
        let mut out = [0.0; 6];
        products(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 2, &mut out);
        assert_eq!(out, [1.0, 2.0, 3.0, 3.0, 4.0, 7.0]);
    }
}

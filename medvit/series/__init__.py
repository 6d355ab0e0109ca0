"""Many slices, one volume with an exact affine in LPS mm."""

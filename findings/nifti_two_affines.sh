#!/usr/bin/env bash
# A NIfTI file may hold two affines. Where sform says "aligned" (code 2) and qform says "scanner" (code 1), as after
# a registration, nibabel uses the sform and SimpleITK the qform: the same voxel lies 60 mm apart, in a valid file, without a warning.
# A volume read by one library and its lesion mask or its resampling by the other do not meet.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   nibabel 5.4.2 SimpleITK 2.5.7
#   qform code 1, sform code 1: first voxel (mm, RAS) nibabel [-50.  20.  30.], SimpleITK [-50.  20.  30.]: 0 mm apart
#   qform code 1, sform code 2: first voxel (mm, RAS) nibabel [-50.  20.  30.], SimpleITK [10. 20. 30.]: 60 mm apart
#   qform code 1, sform code 4: first voxel (mm, RAS) nibabel [-50.  20.  30.], SimpleITK [10. 20. 30.]: 60 mm apart
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
env/bin/python - <<'EOF'
import nibabel, numpy, SimpleITK

scanner = numpy.diag([1.0, 1.0, 4.0, 1.0]); scanner[:3, 3] = [10, 20, 30]
aligned = numpy.diag([1.0, 1.0, 4.0, 1.0]); aligned[:3, 3] = [-50, 20, 30]
print("nibabel", nibabel.__version__, "SimpleITK", SimpleITK.Version().VersionString())
distances = {}
for qform_code, sform_code in ((1, 1), (1, 2), (1, 4)):
    image = nibabel.Nifti1Image(numpy.zeros((4, 5, 6), "int16"), None)
    image.set_qform(scanner, qform_code)
    image.set_sform(aligned, sform_code)
    nibabel.save(image, "volume.nii")
    first = nibabel.load("volume.nii").affine[:3, 3]
    second = numpy.array(SimpleITK.ReadImage("volume.nii").GetOrigin()) * [-1, -1, 1]  # LPS to RAS
    distances[sform_code] = float(numpy.linalg.norm(first - second))
    print(f"qform code {qform_code}, sform code {sform_code}: first voxel (mm, RAS) nibabel {first}, SimpleITK {second}: {distances[sform_code]:.0f} mm apart")
assert distances == {1: 0, 2: 60, 4: 60}, "the behaviour has changed"
EOF

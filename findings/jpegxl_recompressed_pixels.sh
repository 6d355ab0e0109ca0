#!/usr/bin/env bash
# A JPEG recompressed losslessly to JPEG XL (DICOM transfer syntax 1.2.840.10008.1.2.4.111) decodes to other pixels than the JPEG,
# although the JPEG itself comes back from it byte for byte. A film stored both ways is two films to a pixel hash, a cache or an audit.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   imagecodecs 2026.3.6 libjxl libjxl 0.11.2
#   quality 75: pixels that differ 27.6%, by up to 2 grey levels; JPEG comes back: True
#   quality 90: pixels that differ 25.7%, by up to 1 grey levels; JPEG comes back: True
#   quality 95: pixels that differ 25.3%, by up to 1 grey levels; JPEG comes back: True
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q imagecodecs==2026.3.6 numpy==2.4.6 scipy==1.17.1
env/bin/python - <<'EOF'
import imagecodecs, numpy
from scipy.ndimage import gaussian_filter

noise = gaussian_filter(numpy.random.default_rng(0).normal(size=(512, 512)), 3)
film = ((noise - noise.min()) / numpy.ptp(noise) * 255).astype("uint8")
print("imagecodecs", imagecodecs.__version__, "libjxl", imagecodecs.jpegxl_version())
for quality in (75, 90, 95):
    jpeg = imagecodecs.jpeg8_encode(film, level=quality)
    recompressed = imagecodecs.jpegxl_encode_jpeg(jpeg)
    difference = abs(imagecodecs.jpegxl_decode(recompressed).astype(int) - imagecodecs.jpeg8_decode(jpeg))
    same_file = imagecodecs.jpegxl_decode_jpeg(recompressed) == jpeg
    print(f"quality {quality}: pixels that differ {(difference > 0).mean():.1%}, by up to {difference.max()} grey levels; JPEG comes back: {same_file}")
    assert same_file and (difference > 0).mean() > 0.1, "the behaviour has changed"
EOF

"""Every preset of conf/data: a miniature with the true names of folders and columns is indexed and split."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.dataset import manifest as manifests
from medvit.dataset import splits
from medvit.errors import DataError
from medvit.index import index
from medvit.phantom import dicom_objects
from medvit.split import split

CONTENT = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((conf_dir() / "data").glob("*.yaml"))}
PRESETS = [name for name, content in CONTENT.items() if name != "folder" and not content["data"]["generate"]]
STATED = ("Get:", "Licence:", "Labels:", "Patient:", "Split:", "Checked:")
PEOPLE = range(10)


def noise(seed: object) -> np.ndarray:
    return np.random.default_rng(abs(hash(str(seed))) % 2**32).integers(0, 255, (64, 64)).astype(np.uint8)


def picture(path: Path, bits: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), noise(path.name) if bits == 8 else noise(path.name).astype(np.uint16) * 200)


def dicom(path: Path, patient: str) -> None:
    kind = "1.2.840.10008.5.1.4.1.1.1"  # Computed Radiography
    name = dicom_objects.uid(str(path))
    values = {"Modality": "CR", "PatientID": patient, "StudyInstanceUID": name + "1", "SeriesInstanceUID": name + "2"}
    dataset = dicom_objects.make_dataset(kind, name, values)
    dicom_objects.set_pixels(dataset, noise(path).astype(np.uint16), 12, "MONOCHROME2")
    dicom_objects.save(dataset, path)


def nifti(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 100, (6, 5, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0])), path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def nih_chestxray14(root: Path) -> None:
    findings = ("Atelectasis|Cardiomegaly|Effusion|Infiltration|Mass|Nodule|Pneumonia|Pneumothorax|Consolidation|"
                "Edema|Emphysema|Fibrosis|Pleural_Thickening|Hernia")  # fmt: skip
    names = [f"{n:08d}_000.png" for n in PEOPLE]
    for n, name in enumerate(names):
        picture(root / f"images_{n % 2 + 1:03d}" / "images" / name)
    head = ("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
            "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]")  # fmt: skip
    rows = [f"{name},{findings if n % 2 else 'No Finding'},0,{n},58,M,PA,2682,2749,0.143,0.143"
            for n, name in enumerate(names)]  # fmt: skip
    text(root / "Data_Entry_2017_v2020.csv", head, *rows)
    text(root / "train_val_list.txt", *names[:7])
    text(root / "test_list.txt", *names[7:])


CHEXPERT = ("No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
            "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices")  # fmt: skip


def marks(n: int) -> str:
    return ",".join(["1.0", "0.0", "-1.0", ""][(n + k) % 4] for k in range(14))


def chexpert(root: Path) -> None:
    for side, people in (("train", PEOPLE), ("valid", range(90, 94))):
        paths = [f"CheXpert-v1.0-small/{side}/patient{n:05d}/study1/view{v}.jpg"
                 for n in people for v in ("1_frontal", "2_lateral")]  # fmt: skip
        for path in paths:
            picture(root / path)
        rows = [f"{path},Female,68,Frontal,AP,{marks(n // 2)}" for n, path in enumerate(paths)]
        text(root / "CheXpert-v1.0-small" / f"{side}.csv", f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}", *rows)


def mimic_cxr_jpg(root: Path) -> None:
    people = [(f"1000{n:04d}", f"5000{n:04d}", f"02aa804e-{n:04d}") for n in PEOPLE]
    for subject, study, image in people:
        picture(root / "files" / "p10" / f"p{subject}" / f"s{study}" / f"{image}.jpg")
    text(root / "mimic-cxr-2.0.0-metadata.csv.gz", "dicom_id,subject_id,study_id,ViewPosition,Rows,Columns",
         *(f"{image},{subject},{study},PA,64,64" for subject, study, image in people))  # fmt: skip
    sides = ["train"] * 6 + ["validate"] * 2 + ["test"] * 2
    text(root / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split",
         *(f"{i},{st},{su},{side}" for (su, st, i), side in zip(people, sides, strict=True)))  # fmt: skip
    text(root / "mimic-cxr-2.0.0-chexpert.csv.gz", f"subject_id,study_id,{CHEXPERT}",
         *(f"{su},{st},{marks(n)}" for n, (su, st, _) in enumerate(people)))  # fmt: skip


def vindr_cxr(root: Path) -> None:
    head = ("Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,ILD,"
            "Infiltration,Lung Opacity,Nodule/Mass,Other lesion,Pleural effusion,Pleural thickening,Pneumothorax,"
            "Pulmonary fibrosis,Lung tumor,Pneumonia,Tuberculosis,No finding")  # fmt: skip
    for side, people in (("train", range(8)), ("test", range(8, 12))):
        for n in people:
            dicom(root / side / f"{n:032x}.dicom", "")
        readers = 3 if side == "train" else 1
        rows = [
            f"{n:032x},R{r},{','.join([str(int(r < 2) if n % 2 else 0)] * 19)}" for n in people for r in range(readers)
        ]
        lines = rows if readers == 3 else [row.replace(",R0", "") for row in rows]
        text(root / "annotations" / f"image_labels_{side}.csv",
             f"image_id,{'rad_ID,' if readers == 3 else ''}{head}", *lines)  # fmt: skip


def rsna_pneumonia(root: Path) -> None:
    for n in PEOPLE:
        dicom(root / "stage_2_train_images" / f"{n:08d}-aa.dcm", f"{n:08d}-aa")
    rows = [
        f"{n:08d}-aa,{b}.0,2.0,3.0,4.0,1" if n % 2 else f"{n:08d}-aa,,,,,0" for n in PEOPLE for b in range(1 + n % 2)
    ]
    text(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *rows)


def padchest(root: Path) -> None:
    words = ("normal", "cardiomegaly", "pleural effusion", "pneumonia", "atelectasis", "nodule", "pneumothorax",
             "interstitial pattern")  # fmt: skip
    rows = []
    for n in PEOPLE:
        picture(root / str(n % 2) / f"{n}_ab.png", bits=16)
        found = [words[n % 8], words[(n + 3) % 8], "unchanged"]
        rows.append(f'{n},{n}_ab.png,{n % 2},{n}s,{n}p,PA,Physician,"{found!r}"')
    text(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
         ",ImageID,ImageDir,StudyID,PatientID,Projection,MethodLabel,Labels", *rows)  # fmt: skip


def siim_pneumothorax(root: Path) -> None:
    for n in PEOPLE:
        dicom(root / "stage_2_images" / f"ID_{n:04d}.dcm", f"person{n}")
    rows = [f"ID_{n:04d},{k + 5} 3 100 2" if n % 2 else f"ID_{n:04d},-1" for n in PEOPLE for k in range(1 + n % 2)]
    text(root / "stage_2_train.csv", "ImageId,EncodedPixels", *rows)


def mura(root: Path) -> None:
    for side, people in (("train", range(8)), ("valid", range(8, 12))):
        folders = [f"MURA-v1.1/{side}/XR_WRIST/patient{n:05d}/study1_{('negative', 'positive')[n % 2]}" for n in people]
        for folder in folders:
            for image in (1, 2):
                picture(root / folder / f"image{image}.png")
        rows = [f"{folder}/,{int('positive' in folder)}" for folder in folders]
        text(root / "MURA-v1.1" / f"{side}_labeled_studies.csv", *rows)


def rsna_bone_age(root: Path) -> None:
    for n in PEOPLE:
        picture(root / "boneage-training-dataset" / f"{1377 + n}.png")
    rows = [f"{1377 + n},{12 * n + 3},{bool(n % 2)}" for n in PEOPLE]
    text(root / "boneage-training-dataset.csv", "id,boneage,male", *rows)


def kermany(root: Path) -> None:
    for n in PEOPLE:
        side = "test" if n < 3 else "train"
        picture(root / side / "PNEUMONIA" / f"person{n}_{('bacteria', 'virus')[n % 2]}_{n}.jpeg")
        picture(root / side / "NORMAL" / f"{'NORMAL2-' * (n % 2)}IM-{n:04d}-0001.jpeg")


def brats(root: Path) -> None:
    names = [f"BraTS20_Training_{n:03d}" for n in PEOPLE]
    for name in names:
        for contrast in ("flair", "t1", "t1ce", "t2", "seg"):
            nifti(root / name / f"{name}_{contrast}.nii")
    rows = [f"{('HGG', 'LGG')[n % 2]},NA,NA,NA,{name}" for n, name in enumerate(names)]
    text(root / "name_mapping.csv", "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,BraTS_2019_subject_ID,"
         "BraTS_2020_subject_ID", *rows)  # fmt: skip


def ixi(root: Path) -> None:
    for n in PEOPLE:
        nifti(root / "IXI-T1" / f"IXI{n + 2:03d}-{('Guys', 'HH', 'IOP')[n % 3]}-{800 + n:04d}-T1.nii.gz")
    rows = [f"{n + 2},{1 + n % 2},164,58,1,4,1,5,1,1,2005-01-01,{20 + n}.5" for n in PEOPLE]
    text(root / "IXI.csv", '"IXI_ID","SEX_ID (1=m, 2=f)","HEIGHT","WEIGHT","ETHNIC_ID","MARITAL_ID","OCCUPATION_ID",'
         '"QUALIFICATION_ID","DOB","DATE_AVAILABLE","STUDY_DATE","AGE"', *rows)  # fmt: skip


def mrnet(root: Path) -> None:
    for side, people in (("train", range(8)), ("valid", range(1130, 1134))):
        for n in people:
            for plane in ("axial", "coronal", "sagittal"):
                nifti(root / side / plane / f"{n:04d}.nii.gz")
        for task in ("acl", "meniscus", "abnormal"):
            text(root / f"{side}-{task}.csv", *(f"{n:04d},{n % 2}" for n in people))


def oai(root: Path) -> None:
    for n in PEOPLE:
        dicom(root / "00m" / "0.C.2" / f"{9000099 + n}" / "20050318" / f"{518402 + n}" / "001", f"{9000099 + n}")
    rows = [f"{9000099 + n}|{side}|15|{(n + side) % 5}" for n in PEOPLE for side in (1, 2)]
    rows += [f"{9000099 + n}|1|42|4" for n in PEOPLE]  # another reading of some knees
    text(root / "kxr_sq_bu00.txt", "ID|SIDE|READPRJ|V00XRKL", *rows)


def medmnist(root: Path) -> None:
    rows = []
    for n, side in enumerate(["TRAIN"] * 6 + ["VALIDATION"] * 3 + ["TEST"] * 3):
        name = f"{side.lower()}{n}_{n % 2}.png"
        picture(root / "pneumoniamnist_224" / name)
        rows.append(f"{side},{name},{n % 2}")
    text(root / "pneumoniamnist_224.csv", *rows)


MINIATURES: dict[str, Callable[[Path], None]] = {
    one.__name__: one
    for one in (nih_chestxray14, chexpert, mimic_cxr_jpg, vindr_cxr, rsna_pneumonia, padchest, siim_pneumothorax, mura,
                rsna_bone_age, kermany, brats, ixi, mrnet, oai, medmnist)
}  # fmt: skip
# images, patients and the share of each side where the split is official
EXPECTED = {
    "nih_chestxray14": (10, 10, {"test": 3}), "chexpert": (28, 14, {}),
    "mimic_cxr_jpg": (10, 10, {"val": 2, "test": 2}),
    "vindr_cxr": (12, 12, {"test": 4}), "rsna_pneumonia": (10, 10, {}), "padchest": (10, 10, {}),
    "siim_pneumothorax": (10, 10, {}), "mura": (24, 12, {"test": 4}), "rsna_bone_age": (10, 10, {}),
    "kermany": (20, 20, {}), "brats": (40, 10, {}), "ixi": (10, 10, {}), "mrnet": (36, 12, {"test": 4}),
    "oai": (10, 10, {}), "medmnist": (12, 12, {"val": 3, "test": 3}),
}  # fmt: skip


def settings_of(command: str, preset: str, root: Path, out: Path) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(command, [f"data={preset}", f"data.root={root}", f"data.folder={out}"])
    found: Any = OmegaConf.to_container(config, resolve=True)
    return found


def indexed(preset: str, root: Path, out: Path) -> manifests.Manifest:
    MINIATURES[preset](root)
    settings = settings_of("index", preset, root, out)
    options = {key: settings["data"][key] for key in ("kind", "patient_fallback", "leave_out", "accept", "series")}
    labels = {key: value for key, value in settings["labels"].items() if key != "values"}
    return index(root, out, labels, options)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_miniature_of_every_preset_is_indexed_and_split(preset, tmp_path):
    made = indexed(preset, tmp_path / "root", tmp_path / "out")
    images, patients, official = EXPECTED[preset]
    assert (len(made.table), made.table["patient"].nunique()) == (images, patients)
    settings = settings_of("split", preset, tmp_path / "root", tmp_path / "out")
    divided = split(tmp_path / "out", **settings["split"])
    sides = divided.table["split"].value_counts()
    assert set(sides.index) == set(splits.SIDES)
    assert {side: sides[side] for side in official} == official
    assert set(settings_of("train", preset, tmp_path, tmp_path)["labels"]["target"]) == set(made.labels)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_states_where_it_comes_from_and_under_which_terms(preset):
    content = (conf_dir() / "data" / f"{preset}.yaml").read_text()
    assert all(word in content for word in STATED)
    assert "Boxes:" in content or "Masks:" in content
    assert set(CONTENT["folder"]["data"]) <= set(CONTENT[preset]["data"])


def test_three_readers_give_their_majority_and_two_knees_the_worse_one(tmp_path):
    films = indexed("vindr_cxr", tmp_path / "a", tmp_path / "x").table
    assert films["label.Pneumonia"].sum() == 6  # two of three readers say so for every odd training film
    knees = indexed("oai", tmp_path / "b", tmp_path / "y").table
    assert sorted(knees["label.V00XRKL"]) == sorted(max((n + 1) % 5, (n + 2) % 5) for n in PEOPLE)


def test_findings_of_a_python_list_and_of_a_piped_column_are_read(tmp_path):
    films = indexed("padchest", tmp_path / "a", tmp_path / "x").table
    assert films["label.pleural effusion"].sum() == 2
    assert films["label.cardiomegaly"].dropna().isin([0, 1]).all()
    nih = indexed("nih_chestxray14", tmp_path / "b", tmp_path / "y").table
    assert (nih["label.Hernia"] == 1).sum() == 5


def test_segmentations_are_left_out_and_a_mask_counts_as_a_pneumothorax(tmp_path):
    brains = indexed("brats", tmp_path / "a", tmp_path / "x").table
    assert not any("_seg" in name for files in brains["files"] for name in files)
    lungs = indexed("siim_pneumothorax", tmp_path / "b", tmp_path / "y").table
    assert lungs["label.pneumothorax"].sum() == 5


def test_a_row_without_its_counterpart_in_another_table_is_refused_and_counted(tmp_path):
    ixi(tmp_path / "root")
    table = (tmp_path / "root" / "IXI.csv").read_text().splitlines()
    text(tmp_path / "root" / "IXI.csv", *table[:-2])
    settings = settings_of("index", "ixi", tmp_path / "root", tmp_path / "out")
    labels = {key: value for key, value in settings["labels"].items() if key != "values"} | {"unmatched": "refuse"}
    with pytest.raises(DataError, match="2 of 10 rows have no counterpart by IXI_ID"):
        index(tmp_path / "root", tmp_path / "out", labels, {"patient_fallback": "file"})


@pytest.mark.parametrize("command", ["index", "split", "train"])
def test_presets_are_chosen_by_name_on_the_command_line(command):
    (problem,) = preflight(conf_dir(), command, ["data=kermani"], None)
    assert "did you mean 'kermany'?" in problem
    missing = preflight(conf_dir(), command, ["data=kermany", *["data.root=/x"] * (command == "index")], None)
    assert missing == []

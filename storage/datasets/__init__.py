"""Data sets: COCO instances, Visual Genome, image folders, OpenMoji scenes."""

"""What is read and written: data sets, checkpoints, word vectors, activations, artefacts, MLflow. Imports configs."""

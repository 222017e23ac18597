"""Runs the model with LiteRT (TensorFlow Lite)."""

from ai_edge_litert.interpreter import Interpreter


def load(path, model, threads):
    """A function from input array to the outputs, in the order of model.json."""
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    named = interpreter.get_signature_runner().get_output_details()
    wanted = [named[output["name"]]["index"] for output in model["outputs"]]

    def run(x):
        interpreter.set_tensor(given, x)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in wanted]

    return run

"""From a judged picture to a file that a person takes along."""

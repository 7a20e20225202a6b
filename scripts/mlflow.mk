# The targets of the MLflow server toolkit. A Makefile gets them by one line: include scripts/mlflow.mk
#
# Every name here starts with mlflow- or MLFLOW_, and nothing runs while make reads this file. Each recipe is one
# line that calls a script: put changes there. It stands behind a `;`, so that the including Makefile's own
# .RECIPEPREFIX does not matter; its SHELL is set aside for our targets alone.

MLFLOW_DIR := $(dir $(lastword $(MAKEFILE_LIST)))
MLFLOW_RUN = bash '$(MLFLOW_DIR)bootstrap.sh'

mlflow-up: ; @$(MLFLOW_RUN) up ## Start the server, or find it running, and say where it is
mlflow-down: ; @$(MLFLOW_RUN) down ## Stop the server; no data is touched
mlflow-restart: ; @$(MLFLOW_RUN) restart ## Stop the server and start it with the settings of today
mlflow-status: ; @$(MLFLOW_RUN) status ## Say whether the server serves, where, and for how long
mlflow-extend: ; @$(MLFLOW_RUN) extend ## Lengthen the life span of the running server: BY=2d
mlflow-logs: ; @$(MLFLOW_RUN) logs ## Follow the log of the server; MLFLOW_FOLLOW=no prints what is there
mlflow-open: ; @$(MLFLOW_RUN) open ## Open the UI in the browser
mlflow-env: ; @$(MLFLOW_RUN) env ## Print what a client needs: eval "$$(make -s mlflow-env)"
mlflow-config: ; @$(MLFLOW_RUN) config ## Print every setting and where it comes from; MLFLOW_FORMAT=json
mlflow-render: ; @$(MLFLOW_RUN) render ## Write the rendered action and print its path
mlflow-check: ; @$(MLFLOW_RUN) check ## Find mistakes in the settings
mlflow-help: ; @$(MLFLOW_RUN) help ## Print this

MLFLOW_TARGETS := up down restart status extend logs open env config render check help
.PHONY: $(MLFLOW_TARGETS:%=mlflow-%)
$(MLFLOW_TARGETS:%=mlflow-%): SHELL := /bin/sh
$(MLFLOW_TARGETS:%=mlflow-%): .SHELLFLAGS := -c

# The targets of the MLflow server toolkit. A Makefile gets them by one line: include scripts/mlflow.mk
#
# Every name here starts with mlflow- or MLFLOW_, and nothing runs while make reads this file. Each recipe is one
# line that calls a script: put changes there. It stands behind a `;`, so that the including Makefile's own
# .RECIPEPREFIX does not matter; its SHELL is set aside for our targets alone. The list of makefiles, by which many
# print their help, and the default goal are left as they were.

MLFLOW_DIR := $(dir $(lastword $(MAKEFILE_LIST)))
MLFLOW_GOAL := $(.DEFAULT_GOAL)
MAKEFILE_LIST := $(filter-out $(lastword $(MAKEFILE_LIST)),$(MAKEFILE_LIST))
MLFLOW_RUN = bash '$(MLFLOW_DIR)bootstrap.sh'
unexport MLFLOW_DIR MLFLOW_GOAL MLFLOW_RUN MLFLOW_TARGETS

mlflow-up: ; @$(MLFLOW_RUN) up ## Start the server, or find it running, and say where it is
mlflow-down: ; @$(MLFLOW_RUN) down ## Stop the server; no data is touched
mlflow-restart: ; @$(MLFLOW_RUN) restart ## Stop the server and start it with the settings of today
mlflow-status: ; @$(MLFLOW_RUN) status ## Say whether the server serves, where, and for how long
mlflow-extend: ; @$(MLFLOW_RUN) extend ## Lengthen the life span of the running server: BY=2d
mlflow-logs: ; @$(MLFLOW_RUN) logs ## Follow the log of the server; MLFLOW_FOLLOW=no prints what is there
mlflow-open: ; @$(MLFLOW_RUN) open ## Open the UI in the browser
mlflow-env: ; @$(MLFLOW_RUN) env ## Print what a client needs: eval "$$(make -s -f $(MLFLOW_DIR)mlflow.mk mlflow-env)"
mlflow-config: ; @$(MLFLOW_RUN) config ## Print every setting and its source: make -s -f $(MLFLOW_DIR)mlflow.mk mlflow-config MLFLOW_FORMAT=json
mlflow-render: ; @$(MLFLOW_RUN) render ## Write the rendered action and print its path
mlflow-check: ; @$(MLFLOW_RUN) check ## Find mistakes in the settings
mlflow-deploy: ; @$(MLFLOW_RUN) deploy ## Serve a registered model: MODEL=iris, iris/3 or iris@champion, FOLLOW=yes
mlflow-deployments: ; @$(MLFLOW_RUN) deployments ## Print the models that are served: version, state, address, newer ones
mlflow-undeploy: ; @$(MLFLOW_RUN) undeploy ## Stop serving a model: MODEL=iris
mlflow-backup: ; @$(MLFLOW_RUN) backup ## Copy the runs of the live server: TO=file fetches it, MLFLOW_BACKUP_ARTIFACTS=yes
mlflow-restore: ; @$(MLFLOW_RUN) restore ## Put a backup into the server's store: FROM=backup, MLFLOW_FORCE=yes
mlflow-upgrade: ; @$(MLFLOW_RUN) upgrade ## Bring the store of an older MLflow up to date, and start the server
mlflow-gc: ; @$(MLFLOW_RUN) clean_up ## Show what is deleted and still kept: OLDER_THAN=30d; MLFLOW_FORCE=yes removes it
mlflow-install: ; @$(MLFLOW_RUN) install ## Put the toolkit into another repository: INTO=../my-project
mlflow-update: ; @$(MLFLOW_RUN) update ## Bring the copy here to another version: FROM=../toolkit, or a tag
mlflow-uninstall: ; @$(MLFLOW_RUN) uninstall ## Take out what mlflow-install put in; no data is touched
mlflow-help: ; @$(MLFLOW_RUN) help ## Print this

MLFLOW_TARGETS := up down restart status extend logs open env config render check deploy deployments undeploy backup restore upgrade gc install update uninstall help
.PHONY: $(MLFLOW_TARGETS:%=mlflow-%)
$(MLFLOW_TARGETS:%=mlflow-%): export MLFLOW_GOALS = $(MAKECMDGOALS)
$(MLFLOW_TARGETS:%=mlflow-%): SHELL := /bin/sh
$(MLFLOW_TARGETS:%=mlflow-%): .SHELLFLAGS := -c

# Else a pattern rule of the Makefile's own, such as `%: FORCE`, would make this file.
$(MLFLOW_DIR)mlflow.mk: ;
ifeq ($(MLFLOW_GOAL),)
.DEFAULT_GOAL :=
endif

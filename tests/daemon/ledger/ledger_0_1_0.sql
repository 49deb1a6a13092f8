BEGIN TRANSACTION;
CREATE TABLE aliases (
	id VARCHAR(200) NOT NULL, 
	correction VARCHAR(200) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(correction) REFERENCES corrections (id)
);
INSERT INTO "aliases" VALUES('two','one');
CREATE TABLE control (
	name VARCHAR(40) NOT NULL, 
	value JSON, 
	PRIMARY KEY (name)
);
CREATE TABLE corrections (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(200) NOT NULL, 
	"key" VARCHAR(200), 
	content_hash VARCHAR(64) NOT NULL, 
	subject TEXT NOT NULL, 
	prompt TEXT NOT NULL, 
	target TEXT NOT NULL, 
	was TEXT, 
	paraphrases JSON NOT NULL, 
	neighbours JSON NOT NULL, 
	source TEXT, 
	priority INTEGER NOT NULL, 
	state VARCHAR(20) NOT NULL, 
	reason TEXT, 
	version VARCHAR(20), 
	superseded_by VARCHAR(200), 
	attempts INTEGER NOT NULL, 
	batch_limit INTEGER, 
	not_before FLOAT NOT NULL, 
	received_at FLOAT NOT NULL, 
	live_at FLOAT, 
	"before" TEXT, 
	"after" TEXT, 
	UNIQUE (id), 
	UNIQUE ("key")
);
INSERT INTO "corrections" VALUES(1,'one','k','516c1deb685cacbf226498730811b07cff5a6c9982433329201938d2a8f62e38','France','The capital of {} is','Lyon',NULL,'[]','[]',NULL,0,'dead','gave up after 1 attempts: a fault',NULL,NULL,1,NULL,0.0,1000.25,NULL,NULL,NULL);
INSERT INTO "corrections" VALUES(2,'three',NULL,'10067e22dea635947ca8cf848d285c36c4ea59434b05c165991c71e72109030c','Türkiye','The capital of {} is','Ankara',NULL,'[]','[]',NULL,0,'validated',NULL,NULL,NULL,0,NULL,0.0,1001.0,NULL,NULL,NULL);
INSERT INTO "corrections" VALUES(3,'bad',NULL,'','','','',NULL,'[]','[]',NULL,0,'rejected','target = 5: must be text',NULL,NULL,0,NULL,0.0,1001.75,NULL,NULL,NULL);
CREATE TABLE lease (
	name VARCHAR(40) NOT NULL, 
	holder VARCHAR(200) NOT NULL, 
	host VARCHAR(200) NOT NULL, 
	pid INTEGER NOT NULL, 
	fence INTEGER NOT NULL, 
	expires_at FLOAT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "lease" VALUES('apply','h','h',1,1,0.0);
CREATE TABLE operations (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	kind VARCHAR(20) NOT NULL, 
	target VARCHAR(200), 
	actor VARCHAR(200) NOT NULL, 
	why TEXT, 
	state VARCHAR(20) NOT NULL, 
	reason TEXT, 
	attempts INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	finished_at FLOAT
);
INSERT INTO "operations" VALUES(1,'pause',NULL,'operator:ann','lunch','pending',NULL,0,1002.5,NULL);
CREATE TABLE stage_seconds (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	version VARCHAR(20) NOT NULL, 
	stage VARCHAR(20) NOT NULL, 
	seconds FLOAT NOT NULL, 
	at FLOAT NOT NULL
);
CREATE TABLE transitions (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	kind VARCHAR(20) NOT NULL, 
	id VARCHAR(200) NOT NULL, 
	old VARCHAR(20), 
	new VARCHAR(20) NOT NULL, 
	at FLOAT NOT NULL, 
	reason TEXT, 
	actor VARCHAR(200) NOT NULL
);
INSERT INTO "transitions" VALUES(1,'correction','one',NULL,'received',1000.5,NULL,'submit');
INSERT INTO "transitions" VALUES(2,'correction','one','received','validated',1000.75,NULL,'submit');
INSERT INTO "transitions" VALUES(3,'correction','three',NULL,'received',1001.25,NULL,'submit');
INSERT INTO "transitions" VALUES(4,'correction','three','received','validated',1001.5,NULL,'submit');
INSERT INTO "transitions" VALUES(5,'correction','bad',NULL,'received',1002.0,NULL,'submit');
INSERT INTO "transitions" VALUES(6,'correction','bad','received','rejected',1002.25,'target = 5: must be text','submit');
INSERT INTO "transitions" VALUES(7,'operation','1',NULL,'pending',1002.75,'lunch','operator:ann');
INSERT INTO "transitions" VALUES(8,'version','v000001',NULL,'planned',1003.5,NULL,'applier');
INSERT INTO "transitions" VALUES(9,'correction','one','validated','staged',1003.75,NULL,'applier');
INSERT INTO "transitions" VALUES(10,'version','v000001','planned','discarded',1004.0,'a fault','applier');
INSERT INTO "transitions" VALUES(11,'correction','one','staged','dead',1004.25,'gave up after 1 attempts: a fault','applier');
CREATE TABLE versions (
	id VARCHAR(20) NOT NULL, 
	parent VARCHAR(20), 
	state VARCHAR(20) NOT NULL, 
	added JSON NOT NULL, 
	removed JSON NOT NULL, 
	operation INTEGER, 
	attempts INTEGER NOT NULL, 
	fence INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	live_at FLOAT, 
	reason TEXT, 
	verdict JSON, 
	measurements JSON, 
	PRIMARY KEY (id)
);
INSERT INTO "versions" VALUES('v000001','v000000','discarded','["one"]','[]',NULL,1,1,1003.25,NULL,'a fault',NULL,NULL);
CREATE INDEX corrections_state ON corrections (state, seq);
CREATE INDEX corrections_slot ON corrections (subject, prompt);
CREATE INDEX transitions_id ON transitions (kind, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('corrections',3);
INSERT INTO "sqlite_sequence" VALUES('transitions',11);
INSERT INTO "sqlite_sequence" VALUES('operations',1);
COMMIT;
